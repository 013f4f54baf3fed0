//! Asks a running instance, found by its cgroup or because it is the only one.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use crate::datapath::cgroup::Cgroup;
use crate::model::document::{Adopted, Flows, Status};
use crate::model::protocol::{FOLDER, Question, connect, say};
use crate::model::text::folders;

/// Asks the instance on a cgroup, or the only one.
pub fn status(cgroup: Option<&Path>) -> Result<Status> {
    question(cgroup, Question::Status)
}

/// Like [`status`], but does not restart the interval of `since_last`.
pub fn sample(cgroup: Option<&Path>) -> Result<Status> {
    question(cgroup, Question::Sample)
}

pub fn flows(cgroup: Option<&Path>) -> Result<Flows> {
    question(cgroup, Question::Flows)
}

/// Has established connections adopted.
pub fn adopt(cgroup: Option<&Path>) -> Result<Adopted> {
    let adopted: Option<Adopted> = question(cgroup, Question::Adopt)?;
    adopted.context("only root and the user of the running sockredir may have it adopt connections")
}

fn question<T: DeserializeOwned>(cgroup: Option<&Path>, question: Question) -> Result<T> {
    let stream = match cgroup {
        Some(path) => connect_to(path)?,
        None => connect_to_only()?,
    };
    let answer = converse(stream, question).context("failed to ask the running sockredir")?;
    if answer.is_empty() {
        bail!("the running sockredir did not answer, it is busy or ending: try again");
    }
    serde_json::from_slice(&answer)
        .context("failed to read the answer of the running sockredir (use the same version as it has)")
}

fn converse(mut stream: UnixStream, question: Question) -> io::Result<Vec<u8>> {
    say(&mut stream, question.word())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn connect_to(path: &Path) -> Result<UnixStream> {
    let cgroup = Cgroup::open(Some(path))?;
    connect(cgroup.inode(), cgroup.path())
}

fn connect_to_only() -> Result<UnixStream> {
    let files = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    // An instance on several cgroups has one socket and links to it.
    let mut streams: Vec<UnixStream> = files
        .filter(|file| file.file_type().is_ok_and(|kind| !kind.is_symlink()))
        .filter_map(|file| UnixStream::connect(file.path()).ok())
        .collect();
    let Some(stream) = streams.pop() else {
        bail!("no sockredir runs on this host: start it with `sockredir run`");
    };
    if streams.is_empty() {
        return Ok(stream);
    }
    streams.push(stream);
    let mut cgroups: Vec<String> = streams.into_iter().filter_map(cgroup_of).collect();
    cgroups.sort();
    bail!(
        "several sockredir run: name the cgroup of one with --cgroup ({})",
        cgroups.join(", ")
    )
}

fn cgroup_of(stream: UnixStream) -> Option<String> {
    let answer = converse(stream, Question::Sample).ok()?;
    let status: Status = serde_json::from_slice(&answer).ok()?;
    Some(folders(&status.instance.cgroups))
}
