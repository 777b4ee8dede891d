//! What the machine has.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory in bytes; none where the system does not say.
#[derive(Debug, Clone, Copy)]
pub struct MachineMemory {
    /// All memory of the machine.
    pub total: Option<u64>,
    /// The smallest limit of the control groups that the process is in; a container has one.
    pub group_limit: Option<u64>,
    /// Memory of the machine that programs may still take.
    pub available: Option<u64>,
}

impl MachineMemory {
    /// The memory now.
    pub fn read() -> Self {
        let mut system = sysinfo::System::new();
        system.refresh_memory();
        let read = |path: &Path| fs::read_to_string(path).ok();
        // Without /proc the total is 0, and it is found elsewhere.
        let known = |bytes: u64| Some(bytes).filter(|&bytes| bytes > 0);
        Self {
            total: known(system.total_memory()).or_else(|| of_nodes(&read)),
            group_limit: group_limit(&read),
            available: known(system.available_memory()),
        }
    }

    /// Memory that processes here may use.
    pub fn usable(&self) -> u64 {
        [self.total, self.group_limit].into_iter().flatten().min().unwrap_or(u64::MAX)
    }
}

/// Bytes of memory that processes here may use: the machine's, or the smallest limit of the control groups that the
/// process is in.
pub fn memory() -> u64 {
    MachineMemory::read().usable()
}

/// The memory of all NUMA nodes, as Linux lists them below `/sys`.
fn of_nodes(read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let node = |n: u32| read(Path::new(&format!("/sys/devices/system/node/node{n}/meminfo")));
    let total = |text: String| {
        let kib = text.lines().find_map(|line| line.split_once("MemTotal:"))?.1;
        Some(kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    let sum: Option<u64> = (0..).map_while(node).map(total).sum();
    sum.filter(|&bytes| bytes > 0)
}

/// Version 1 and version 2 of control groups (cgroups(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CgroupVersion {
    One,
    Two,
}

impl CgroupVersion {
    /// The file with a group's own limit.
    fn file(self) -> &'static str {
        match self {
            Self::One => "memory.limit_in_bytes",
            Self::Two => "memory.max",
        }
    }

    /// Where the tree of groups is unless the process's mounts say otherwise.
    fn usual_mount(self) -> &'static str {
        match self {
            Self::One => "/sys/fs/cgroup/memory",
            Self::Two => "/sys/fs/cgroup",
        }
    }
}

/// The smallest limit from the process's own groups up to the roots: a group's limit holds for those below it, too.
fn group_limit(read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let mounts = read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    let mut limits = Vec::new();
    for version in [CgroupVersion::One, CgroupVersion::Two] {
        let own = groups.lines().find_map(|line| group(line, version)).unwrap_or("/");
        let mounted = mounts.lines().find_map(|line| mount(line, version));
        let (root, top) = mounted.unwrap_or(("/", version.usual_mount()));
        // A container may see only the part of the tree below its own group.
        let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
        let leaf: PathBuf = Path::new(top).join(below);
        for folder in leaf.ancestors().take_while(|folder| folder.starts_with(top)) {
            limits.extend(read(&folder.join(version.file())).and_then(|text| text.trim().parse::<u64>().ok()));
        }
        // Of groups above those that are mounted.
        let stat = read(&leaf.join("memory.stat")).unwrap_or_default();
        let above = stat.lines().find_map(|line| line.strip_prefix("hierarchical_memory_limit "));
        limits.extend(above.and_then(|text| text.trim().parse::<u64>().ok()));
    }
    limits.into_iter().min()
}

/// The group in a line of `/proc/self/cgroup`: `ID:CONTROLLERS:GROUP`, without controllers in version 2.
fn group(line: &str, version: CgroupVersion) -> Option<&str> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
    let is_it = match version {
        CgroupVersion::One => controllers.split(',').any(|controller| controller == "memory"),
        CgroupVersion::Two => controllers.is_empty(),
    };
    is_it.then_some(group)
}

/// Root and mount point in a line of `/proc/self/mountinfo`, if the tree of groups is mounted there (proc(5)).
fn mount(line: &str, version: CgroupVersion) -> Option<(&str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let place = (fields.next()?, fields.next()?);
    let mut fields = after.split(' ');
    let (kind, options) = (fields.next()?, fields.nth(1)?);
    let is_it = match version {
        CgroupVersion::One => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
        CgroupVersion::Two => kind == "cgroup2",
    };
    is_it.then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        let files: HashMap<&Path, &str> = files.iter().map(|(path, text)| (Path::new(path), *text)).collect();
        group_limit(&|path| files.get(path).map(|text| (*text).to_owned()))
    }

    const MOUNTED_2: (&str, &str) = (
        "/proc/self/mountinfo",
        "24 1 0:22 / /proc rw - proc proc rw\n30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
    );

    #[test]
    fn the_smallest_limit_along_the_path_counts() {
        let own = ("/proc/self/cgroup", "0::/user.slice/job/task\n");
        let nested = |job: &'static str, task: &'static str| {
            limit(&[
                MOUNTED_2,
                own,
                ("/sys/fs/cgroup/user.slice/memory.max", "8000\n"),
                ("/sys/fs/cgroup/user.slice/job/memory.max", job),
                ("/sys/fs/cgroup/user.slice/job/task/memory.max", task),
                ("/sys/fs/cgroup/user.slice/other/memory.max", "1\n"),
            ])
        };
        assert_eq!(nested("3000\n", "max\n"), Some(3000));
        assert_eq!(nested("3000\n", "2000\n"), Some(2000));
        assert_eq!(nested("max\n", "9000\n"), Some(8000));
        assert_eq!(limit(&[MOUNTED_2, own]), None);
    }

    #[test]
    fn version_1_has_its_own_files_and_says_what_is_above() {
        let files = [
            ("/proc/self/cgroup", "9:cpu,cpuacct:/a\n7:memory:/docker/x/y\n0::/a\n"),
            ("/proc/self/mountinfo", "40 30 0:35 /docker/x /mnt/memory rw - cgroup cgroup rw,memory\n"),
            ("/mnt/memory/memory.limit_in_bytes", "5000\n"),
            ("/mnt/memory/y/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/mnt/memory/y/memory.stat", "cache 1\nhierarchical_memory_limit 4000\n"),
        ];
        assert_eq!(limit(&files), Some(4000));
        assert_eq!(limit(&files[..4]), Some(5000));
    }

    #[test]
    fn groups_outside_the_mount_and_no_proc_at_all_fall_back_on_the_mount() {
        let other = ("/proc/self/cgroup", "0::/../../elsewhere\n");
        let top = ("/sys/fs/cgroup/memory.max", "700\n");
        assert_eq!(limit(&[MOUNTED_2, other, top]), Some(700));
        assert_eq!(limit(&[top]), Some(700));
        assert_eq!(limit(&[("/sys/fs/cgroup/memory/memory.limit_in_bytes", "600\n")]), Some(600));
        assert_eq!(limit(&[]), None);
        assert_eq!(
            limit(&[("/proc/self/cgroup", "\u{0}garbage\n::\n"), ("/proc/self/mountinfo", "x - \n - cgroup2\n")]),
            None
        );
    }

    #[test]
    fn nodes_add_up() {
        let nodes = ["Node 0 MemTotal:       4 kB\nNode 0 MemFree:  1 kB\n", "Node 1 MemTotal: 6 kB\n"];
        let read = |path: &Path| {
            let n = nodes.iter().enumerate().find(|(n, _)| path.ends_with(format!("node{n}/meminfo")));
            n.map(|(_, text)| (*text).to_owned())
        };
        assert_eq!(of_nodes(&read), Some(10 * 1024));
        assert_eq!(of_nodes(&|_| None), None);
    }

    #[test]
    fn there_is_memory_here() {
        assert!(memory() > 64 << 20);
    }
}
