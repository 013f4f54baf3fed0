//! Charts of the results as one SVG.
use super::report::Report;
use anyhow::Result;
pub fn draw(_report: &Report) -> Result<String> {
    Ok(String::new())
}
