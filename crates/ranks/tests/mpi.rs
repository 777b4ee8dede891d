//! Ranks that a real MPI connects. This program starts itself under `mpirun`, and then is one of the ranks.

#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "this is a test")]

use gptkit_ranks::{Ranks, leaf, mpi_ranks, sum_of_ranks, tree_sum};
use std::process::{Command, ExitCode};
use std::time::Duration;

fn be_a_rank(ranks: &Ranks) {
    let (rank, size) = (ranks.rank(), ranks.size());
    let gathered = ranks.gather(&vec![rank as u64; rank]).unwrap();
    assert_eq!(gathered, (0..size).map(|rank| vec![rank as u64; rank]).collect::<Vec<_>>());

    let n = 3_000_001;
    let bounds: Vec<usize> = (0..=size).map(|slice| n * slice / size).collect();
    let sum = sum_of_ranks(ranks, leaf(rank, n), &bounds).unwrap();
    let leaves: Vec<Vec<f32>> = (0..size).map(|rank| leaf(rank, n)).collect();
    assert!(sum.iter().zip(tree_sum(&leaves)).all(|(a, b)| a.to_bits() == b.to_bits()));
}

/// Starts `n` ranks of this program with the environment variable `what`; whether all succeed, and what they print.
fn started(n: usize, what: &str) -> (bool, String) {
    let this = std::env::current_exe().unwrap();
    let n = n.to_string();
    let words = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", &n];
    let done = Command::new("mpirun").args(words).arg(this).env("TEST_OF_RANKS", what).output().unwrap();
    (done.status.success(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

fn main() -> ExitCode {
    let report = |what: &str| eprintln!("{what}");
    match std::env::var("TEST_OF_RANKS").as_deref() {
        Ok("sums") => be_a_rank(&mpi_ranks(Duration::from_secs(60), report).unwrap()),
        Ok("silence") => {
            let ranks = mpi_ranks(Duration::from_secs(1), report).unwrap();
            if ranks.rank() == 1 {
                std::thread::sleep(Duration::from_secs(30));
            }
            ranks.wait().unwrap();
        }
        _ => {
            if Command::new("mpirun").arg("--version").output().is_err() {
                println!("skipped: mpirun is not installed");
                return ExitCode::SUCCESS;
            }
            for n in [1, 2, 4] {
                let (succeeded, printed) = started(n, "sums");
                assert!(succeeded, "{n} ranks: {printed}");
            }
            let (succeeded, printed) = started(2, "silence");
            assert!(!succeeded && printed.contains("rank 1 did not answer rank 0 for 1 s"), "{printed}");
            let (succeeded, printed) = started(3, "sums");
            assert!(!succeeded && printed.contains("there are 3 ranks"), "{printed}");
            println!("ranks of MPI: 5 of 5 starts as expected");
        }
    }
    ExitCode::SUCCESS
}
