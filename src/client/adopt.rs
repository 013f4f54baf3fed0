//! `sockredir adopt`: has the running instance adopt established connections now.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::ask;
use crate::cli::AdoptArgs;
use crate::model::output::print;

/// Fails if the instance cannot be asked, or does not scan.
pub fn adopt(args: &AdoptArgs) -> Result<ExitCode> {
    let adopted = ask::adopt(args.cgroup.as_deref())?;
    if let Some(obstacle) = adopted.obstacle {
        bail!(obstacle);
    }
    let text = if args.json {
        serde_json::to_string(&adopted)?
    } else {
        format!(
            "{} connections adopted, in {} scans of {:.1} ms in all; `sockredir flows` says why others were not",
            adopted.adopted,
            adopted.scans,
            adopted.seconds * 1000.0
        )
    };
    print(&(text + "\n"))?;
    Ok(ExitCode::SUCCESS)
}
