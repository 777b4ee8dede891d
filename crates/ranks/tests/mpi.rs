//! Ranks that a real MPI connects. This program starts itself under `mpirun`, and then is one of the ranks.

#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "this is a test")]

use gptkit_ranks::{Numbers, Ranks, mpi_ranks, slice_of};
use std::ops::Range;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// A vector, to which numbers of other ranks are added or not.
struct Vector {
    numbers: Vec<f32>,
    adds: bool,
}

impl Numbers for Vector {
    fn read(&self, range: Range<usize>, out: &mut [f32]) -> anyhow::Result<()> {
        out.copy_from_slice(&self.numbers[range]);
        Ok(())
    }

    fn take_in(&mut self, range: Range<usize>, values: &[f32]) -> anyhow::Result<()> {
        let numbers = self.numbers[range].iter_mut().zip(values);
        numbers.for_each(|(number, x)| *number = if self.adds { *number + x } else { *x });
        Ok(())
    }
}

/// The numbers of rank number `rank`.
fn own(rank: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((rank * 31 + i * 17) as f32).sin() * 10f32.powi(rank as i32)).collect()
}

/// Sums as a binary tree.
fn tree(leaves: &[Vec<f32>]) -> Vec<f32> {
    let [one] = leaves else {
        let (left, right) = leaves.split_at(leaves.len() / 2);
        return tree(left).iter().zip(tree(right)).map(|(a, b)| a + b).collect();
    };
    one.clone()
}

fn be_a_rank(ranks: &Ranks) {
    let (rank, size) = (ranks.rank(), ranks.size());
    let gathered = ranks.gather(&vec![rank as u64; rank]).unwrap();
    assert_eq!(gathered, (0..size).map(|rank| vec![rank as u64; rank]).collect::<Vec<_>>());

    let n = 3_000_001;
    let bounds: Vec<usize> = (0..=size).map(|slice| n * slice / size).collect();
    let mut vector = Vector { numbers: own(rank, n), adds: true };
    ranks.scatter_sum(&mut vector, &bounds).unwrap();
    let kept = bounds[slice_of(rank, size)]..bounds[slice_of(rank, size) + 1];
    vector.numbers.iter_mut().enumerate().filter(|(i, _)| !kept.contains(i)).for_each(|(_, x)| *x = f32::NAN);
    vector.adds = false;
    ranks.gather_slices(&mut vector, &bounds).unwrap();
    let leaves: Vec<Vec<f32>> = (0..size).map(|rank| own(rank, n)).collect();
    assert!(vector.numbers.iter().zip(tree(&leaves)).all(|(a, b)| a.to_bits() == b.to_bits()));
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
