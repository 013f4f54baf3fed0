//! Owns the pace of the machine: on a slow one, such as an emulated one, tests wait longer and do less.

use std::env;
use std::sync::LazyLock;
use std::time::Duration;

/// How many times slower than usual this machine is, from SOCKREDIR_SLOWNESS in the environment.
static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
    let text = env::var("SOCKREDIR_SLOWNESS").unwrap_or_default();
    match text.as_str() {
        "" => 1,
        _ => text
            .parse()
            .unwrap_or_else(|_| panic!("SOCKREDIR_SLOWNESS={text} is not a number")),
    }
});

pub fn is_slow() -> bool {
    *SLOWNESS > 1
}

/// Scales a timeout to this machine.
pub fn patience(usual: Duration) -> Duration {
    usual * *SLOWNESS
}

/// Scales an amount of work to this machine. Apply it twice to work within a time that is itself cut down.
pub fn work(usual: u64) -> u64 {
    usual / u64::from(*SLOWNESS)
}
