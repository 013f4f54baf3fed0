//! The machine, and what else it did meanwhile.

use std::fs;

use anyhow::{Context as _, Result};
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Host {
    pub cpu: String,
    pub cpus: usize,
    /// It runs under a hypervisor, which may give its processors to other guests.
    pub is_virtual: bool,
    pub memory_gib: f64,
    /// As in `uname -r`.
    pub kernel: String,
    pub architecture: &'static str,
}

impl Host {
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = sockredir::datapath::release();
        Self {
            cpu: cpu_model(&cpuinfo).unwrap_or("unknown processor").to_owned(),
            cpus: cpuinfo
                .lines()
                .filter(|line| value_of(line, "processor").is_some())
                .count(),
            is_virtual: is_virtual(&cpuinfo) || fs::exists("/sys/hypervisor/type").unwrap_or(false),
            memory_gib: memory_kib(&meminfo).unwrap_or_default() / f64::from(1 << 20),
            kernel,
            architecture: std::env::consts::ARCH,
        }
    }
}

fn value_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (before, value) = line.split_once(':')?;
    (before.trim_end() == name).then(|| value.trim())
}

/// Arm lists no model name, only the vendor's numbers.
fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let find = |name| cpuinfo.lines().find_map(|line| value_of(line, name));
    find("model name")
        .or_else(|| find("Model"))
        .or_else(|| find("CPU part"))
}

fn is_virtual(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| value_of(line, "flags"));
    flags.is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"))
}

fn memory_kib(meminfo: &str) -> Option<f64> {
    let line = meminfo.lines().find_map(|line| value_of(line, "MemTotal"))?;
    line.trim_end_matches(" kB").parse().ok()
}

/// The machine's load over the last minute, and its processor times so far.
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    load: f64,
    total: u64,
    steal: u64,
}

impl Activity {
    pub fn now() -> Result<Self> {
        let load = fs::read_to_string("/proc/loadavg").context("failed to read /proc/loadavg")?;
        let stat = fs::read_to_string("/proc/stat").context("failed to read /proc/stat")?;
        Self::parse(&load, &stat).context("failed to read the times of the processors in /proc/stat")
    }

    fn parse(load: &str, stat: &str) -> Option<Self> {
        let times = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let times: Vec<u64> = times
            .split_whitespace()
            .map_while(|time| time.parse().ok())
            .collect();
        Some(Self {
            load: load.split(' ').next()?.parse().ok()?,
            // The guest times that follow are already included in the others.
            total: times.iter().take(8).sum(),
            steal: *times.get(7)?,
        })
    }

    pub fn until(self, end: Self) -> During {
        let total = end.total.saturating_sub(self.total);
        let steal = end.steal.saturating_sub(self.steal);
        During {
            load_before: self.load,
            load_after: end.load,
            steal: steal as f64 / total.max(1) as f64,
        }
    }
}

/// The machine's activity during the benchmark.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct During {
    pub load_before: f64,
    pub load_after: f64,
    /// The share of processor time that the hypervisor gave to other guests.
    pub steal: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_named_and_hypervisors_noticed() {
        let text =
            "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu hypervisor sse\n\nprocessor\t: 1\n";
        assert_eq!(cpu_model(text), Some("Some CPU"));
        assert!(is_virtual(text));
        assert!(!is_virtual("flags\t\t: fpu sse\n"));
        assert_eq!(cpu_model("CPU part\t: 0xd0c\n"), Some("0xd0c"));
    }

    #[test]
    fn steal_is_a_share_of_all_time() {
        let at =
            |times: &str| Activity::parse("0.50 0.1 0.1 1/2 3", &format!("cpu  {times}\ncpu0 1\n")).unwrap();
        let during = at("10 0 10 80 0 0 0 0 5 5").until(at("20 0 20 140 0 0 0 20 5 5"));
        assert_eq!(during.load_before, 0.5);
        assert!((during.steal - 0.2).abs() < 1e-9, "{}", during.steal);
    }
}
