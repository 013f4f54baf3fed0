//! Owns the pace of the machine: where it is slow, as an emulated one, tests wait longer and do less.

use std::env;
use std::sync::LazyLock;
use std::time::Duration;

/// How many times slower than usual this machine is, as SOCKREDIR_SLOWNESS says in the environment.
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

/// How long to wait here, for what usually comes within this time.
pub fn patience(usual: Duration) -> Duration {
    usual * *SLOWNESS
}

/// How much to do here, of what is usually this much. Twice for what is done in a time that is cut down as well.
pub fn work(usual: u64) -> u64 {
    usual / u64::from(*SLOWNESS)
}
