//! `gptkit doctor`

use crate::device::DeviceChoice;
use crate::env;
use crate::info::{bf16_products, built_with};
use crate::serve::DEFAULT_PORT;
use crate::ui::Ui;
use anyhow::{Result, ensure};
use candle_core::Device;
use clap::Args;
use gptkit_data::disk;
use gptkit_data::format::needed_bytes;
use gptkit_data::progress::counted;
use gptkit_data::text_table::aligned;
use gptkit_hub::{Hub, HubSettings};
use gptkit_ops::cpu::{Cpu, LIMIT, Level};
use gptkit_train::machine::MachineMemory;
use serde::Serialize;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Check this machine: CPU, memory, disk, permissions, GPU, hub, server port
///
/// Prints one line per check, with a remedy where something is wrong. The exit code is 1 if a check has the state `problem`,
/// which prevents work; a `warning` does not. With --server, it is the health check of a container.
#[derive(Debug, Args)]
pub(crate) struct DoctorCommand {
    /// Check only that the server at this address accepts requests, for instance `http://127.0.0.1:8000`
    #[arg(long, value_name = "URL", conflicts_with = "offline")]
    server: Option<String>,
    /// Do not connect to the hub
    #[arg(long)]
    offline: bool,
    /// Print one JSON object per check instead of a table
    #[arg(long)]
    json: bool,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckState {
    Ok,
    /// Something is slower or missing.
    Warning,
    /// Something prevents work.
    Problem,
}

/// A check of the machine.
#[derive(Debug, Serialize)]
struct MachineCheck {
    check: &'static str,
    state: CheckState,
    found: String,
    /// The remedy, if the state is not `ok`.
    hint: Option<String>,
}

impl MachineCheck {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: CheckState::Ok, found: found.into(), hint: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, state: CheckState::Warning, found: found.into(), hint: Some(hint.into()) }
    }

    fn problem(check: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { state: CheckState::Problem, ..Self::warning(check, found, hint) }
    }

    /// State, name and finding as cells of a table.
    fn row(&self) -> Vec<String> {
        let state = match self.state {
            CheckState::Ok => "ok",
            CheckState::Warning => "warning",
            CheckState::Problem => "problem",
        };
        let hint = self.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        vec![state.to_owned(), self.check.to_owned(), format!("{}{hint}", self.found)]
    }
}

/// Bytes of memory with which the default model of `gptkit pretrain` trains, which takes about 142 MB.
const LEAST_MEMORY: u64 = 200_000_000;
/// Bytes of free disk below which nothing can be written, and below which room gets short.
const LEAST_DISK: u64 = 100_000_000;
const LITTLE_DISK: u64 = 2_000_000_000;
/// Open files that a server with many connections needs.
const FEWEST_OPEN_FILES: u64 = 1024;
/// Time after which the hub or another program does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

impl DoctorCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let checks = match &self.server {
            Some(url) => vec![server(url)],
            None => self.machine(ui),
        };
        if self.json {
            let lines: Vec<String> = checks.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
            ui.json(&lines.into_iter().map(|line| line + "\n").collect::<String>())?;
        } else {
            ui.result(&aligned(&checks.iter().map(MachineCheck::row).collect::<Vec<_>>(), 3))?;
        }
        let n = checks.iter().filter(|check| check.state == CheckState::Problem).count();
        ensure!(n == 0, "{} found a problem", counted(n as u64, "check"));
        Ok(())
    }

    /// All checks of the machine.
    fn machine(&self, ui: &Ui) -> Vec<MachineCheck> {
        let hub = HubSettings { patience: PATIENCE, ..env::hub() };
        let hub = HubSettings { offline: hub.offline || self.offline, ..hub };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        vec![
            MachineCheck::ok("version", format!("gptkit {}, {}", env!("CARGO_PKG_VERSION"), platform())),
            cpu(Cpu::get()),
            threads(rayon::current_num_threads(), cores),
            memory(MachineMemory::read()),
            gpu(),
            folder("working folder", Path::new("."), "change to a folder that you can write to"),
            folder("temporary files", &std::env::temp_dir(), "set TMPDIR to a folder that you can write to"),
            folder("hub cache", existing(&hub.cache), "set HF_HOME to a folder that you can write to"),
            reach(&hub, ui),
            port(),
            open_files(),
            programs(),
        ]
    }
}

fn server(url: &str) -> MachineCheck {
    match gptkit_chat::server::check_health(url, PATIENCE) {
        Ok(()) => MachineCheck::ok("server", format!("{url} accepts requests")),
        Err(e) => MachineCheck::problem("server", format!("{e:#}"), "start it with `gptkit serve`"),
    }
}

/// Operating system, architecture and the GPUs that the binary supports.
fn platform() -> String {
    format!("{} on {}, built with {}", std::env::consts::OS, std::env::consts::ARCH, built_with())
}

fn cpu(cpu: &Cpu) -> MachineCheck {
    let found = format!("{}; bf16 products: {}", cpu.level, bf16_products(cpu));
    match Cpu::limit() {
        Ok(Some(_)) => MachineCheck::warning("cpu", found, format!("unset {LIMIT} to use all instructions")),
        _ if cpu.level == Level::Portable && cfg!(target_arch = "x86_64") => {
            MachineCheck::warning("cpu", found, "training is faster on a CPU with AVX2 or AVX-512")
        }
        _ => MachineCheck::ok("cpu", found),
    }
}

/// `n` threads on `cores`, which are those that the process may use.
fn threads(n: usize, cores: usize) -> MachineCheck {
    let found = format!("{} on {}", counted(n as u64, "thread"), counted(cores as u64, "core"));
    match n > cores {
        true => MachineCheck::warning("threads", found, format!("set RAYON_NUM_THREADS to {cores}, or unset it")),
        false => MachineCheck::ok("threads", found),
    }
}

fn memory(memory: MachineMemory) -> MachineCheck {
    let all = memory.usable();
    let mut found = match memory.group_limit.filter(|&limit| limit == all && memory.total > Some(limit)) {
        Some(limit) => format!(
            "{} (limit of the container or control group; the machine has {})",
            needed_bytes(limit),
            needed_bytes(memory.total.unwrap_or(limit))
        ),
        None if all == u64::MAX => "size unknown".to_owned(),
        None => needed_bytes(all),
    };
    let free = memory.available.unwrap_or(u64::MAX).min(all);
    if memory.available.is_some() {
        found += &format!(", {} free", needed_bytes(free));
    }
    match free < LEAST_MEMORY {
        true => MachineCheck::problem("memory", found, "end other programs or raise the limit of the container"),
        false => MachineCheck::ok("memory", found),
    }
}

fn gpu() -> MachineCheck {
    let supports = cfg!(feature = "cuda") || cfg!(feature = "metal");
    match DeviceChoice::Auto.open() {
        Err(e) => MachineCheck::problem("gpu", format!("{e:#}"), "use --device cpu"),
        Ok(Device::Cpu) if supports => {
            MachineCheck::warning("gpu", "none available; the CPU is used", "check the GPU's driver")
        }
        Ok(Device::Cpu) if Path::new("/dev/nvidia0").exists() => MachineCheck::warning(
            "gpu",
            "this machine has an NVIDIA GPU, and this gptkit was built without cuda",
            "build it with --features cuda",
        ),
        Ok(Device::Cpu) => MachineCheck::ok("gpu", "none; the CPU is used"),
        Ok(_) => MachineCheck::ok("gpu", built_with()),
    }
}

/// Whether files can be created in `folder`, and the free space of its disk.
fn folder(check: &'static str, folder: &Path, hint: &str) -> MachineCheck {
    let shown = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()).display().to_string();
    if let Err(e) = tempfile::tempfile_in(folder) {
        // Training writes to the working folder; the other folders are needed by some commands.
        let found = format!("{shown} cannot be written: {e}");
        return match check {
            "working folder" => MachineCheck::problem(check, found, hint),
            _ => MachineCheck::warning(check, found, hint),
        };
    }
    let Some(free) = disk::free_bytes(folder) else { return MachineCheck::ok(check, shown) };
    let found = format!("{shown}, {} free", needed_bytes(free));
    match free {
        ..LEAST_DISK => MachineCheck::problem(check, found, "free some space"),
        LEAST_DISK..LITTLE_DISK => MachineCheck::warning(check, found, "free some space for models and checkpoints"),
        _ => MachineCheck::ok(check, found),
    }
}

/// `folder`, or the nearest folder above it that exists.
fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."))
}

fn reach(settings: &HubSettings, ui: &Ui) -> MachineCheck {
    let endpoint = &settings.endpoint;
    if settings.offline {
        return MachineCheck::ok("hub", format!("{endpoint} is not used: offline"));
    }
    match Hub::new(settings, ui).account() {
        Ok(Some(account)) => MachineCheck::ok("hub", format!("{endpoint} answers, as account {account}")),
        Ok(None) => MachineCheck::ok("hub", format!("{endpoint} answers, without a token")),
        Err(e) => {
            let text = format!("{e:#}");
            let (found, hint) = text.split_once("\n  hint: ").unwrap_or((&text, "check HF_ENDPOINT"));
            MachineCheck::warning("hub", found, hint)
        }
    }
}

/// Whether `gptkit serve` can listen on its default port.
fn port() -> MachineCheck {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, DEFAULT_PORT)) {
        Ok(_) => MachineCheck::ok("server port", format!("{DEFAULT_PORT} is free")),
        Err(e) => MachineCheck::warning(
            "server port",
            format!("{DEFAULT_PORT} cannot be used: {e}"),
            "start `gptkit serve` with --port N, where 0 takes a free port",
        ),
    }
}

#[cfg(unix)]
fn open_files() -> MachineCheck {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let found = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("limit {limit}"));
    match limit.is_some_and(|limit| limit < FEWEST_OPEN_FILES) {
        true => MachineCheck::warning("open files", found, format!("raise it with `ulimit -n {FEWEST_OPEN_FILES}`")),
        false => MachineCheck::ok("open files", found),
    }
}

#[cfg(not(unix))]
fn open_files() -> MachineCheck {
    MachineCheck::ok("open files", "no limit is known on this system")
}

/// Versions of the programs that exchange files with gptkit, none of which it needs.
fn programs() -> MachineCheck {
    const PACKAGES: &str = "import importlib.metadata as m\n\
                            for name in ('torch', 'transformers', 'huggingface_hub'):\n\
                            \x20 try: print('found', name, m.version(name))\n\
                            \x20 except m.PackageNotFoundError: pass\n";
    let llama = output("llama-cli", &["--version"]).unwrap_or_default();
    let llama = llama.lines().filter_map(|line| line.strip_prefix("version: ")).map(|it| format!("llama.cpp {it}"));
    let python = output("python3", &["-c", PACKAGES]).unwrap_or_default();
    let python = python.lines().filter_map(|line| line.strip_prefix("found ")).map(str::to_owned);
    let found: Vec<String> = llama.take(1).chain(python).collect();
    let none = "none of llama.cpp, PyTorch, transformers; gptkit needs none";
    MachineCheck::ok("other programs", if found.is_empty() { none.to_owned() } else { found.join(", ") })
}

/// Output of the program `name`, stdout and then stderr; `None` if it is missing or takes longer than [`PATIENCE`].
fn output(name: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    let begun = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().ok()?;
    Some([output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_threads_than_cores_get_a_hint() {
        assert_eq!(threads(2, 2).state, CheckState::Ok);
        assert_eq!(threads(1, 2).state, CheckState::Ok);
        let row = threads(8, 2).row();
        assert_eq!(row, ["warning", "threads", "8 threads on 2 cores; set RAYON_NUM_THREADS to 2, or unset it"]);
    }

    #[test]
    fn memory_is_the_smallest_limit_and_too_little_is_a_problem() {
        let of = |total, group_limit, available| memory(MachineMemory { total, group_limit, available });
        let gb = 1_000_000_000;
        let found = of(Some(16 * gb), Some(2 * gb), Some(9 * gb)).found;
        assert_eq!(found, "2.00 GB (limit of the container or control group; the machine has 16.00 GB), 2.00 GB free");
        assert_eq!(of(Some(16 * gb), None, Some(9 * gb)).found, "16.00 GB, 9.00 GB free");
        assert_eq!(of(None, None, None).state, CheckState::Ok);
        for little in [of(Some(16 * gb), Some(gb / 10), Some(9 * gb)), of(Some(16 * gb), None, Some(gb / 10))] {
            assert_eq!(little.state, CheckState::Problem, "{little:?}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_a_problem_where_runs_go() {
        let lost = Path::new("/nowhere/at/all");
        assert_eq!(folder("working folder", lost, "change it").state, CheckState::Problem);
        let row = folder("hub cache", lost, "set HF_HOME").row();
        assert!(row[0] == "warning" && row[2].starts_with("/nowhere/at/all cannot be written: "), "{row:?}");
        assert!(row[2].ends_with("; set HF_HOME"), "{row:?}");
        assert_eq!(existing(lost), Path::new("/"));
    }

    #[test]
    fn programs_that_are_missing_or_hang_have_no_version() {
        assert_eq!(output("gptkit-no-such-program", &[]), None);
        #[cfg(unix)]
        {
            assert_eq!(output("sh", &["-c", "echo out; echo err >&2"]).as_deref(), Some("out\n\nerr\n"));
            assert_eq!(output("sh", &["-c", "exec sleep 60"]), None);
        }
    }
}
