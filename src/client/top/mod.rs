//! `sockredir top`: the activity of an instance, refreshed on a screen or as lines of text.

mod display;
mod plain;
mod rates;
#[cfg(test)]
mod samples;
mod screen;
mod table;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use serde::Serialize;

use super::ask;
use crate::cli::TopArgs;
use crate::model::document::{Flow, Status};
use crate::model::text::folders;
use display::Display;
use rates::{Sample, View};

/// Wakes the loop before its next sample is due.
enum Input {
    /// SIGINT, SIGTERM or SIGHUP.
    Stop,
    Terminal(io::Result<Event>),
}

/// The terminal in screen mode until dropped.
struct Screen(DefaultTerminal);

impl Screen {
    fn take() -> Result<Self> {
        let terminal = ratatui::try_init().inspect_err(|_| give_back());
        Ok(Self(terminal.context("failed to take over the terminal")?))
    }

    fn draw(&mut self, view: &View, display: &mut Display) -> Result<()> {
        self.0
            .draw(|frame| screen::draw(frame, view, display))
            .context("failed to draw on the terminal")?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // In a panic the hook has already done it, before the message.
        if !thread::panicking() {
            give_back();
        }
    }
}

fn give_back() {
    // A terminal that has gone needs no restoring.
    let _ = ratatui::try_restore();
}

/// Runs until a signal or the quit key. Fails once the instance cannot be asked any more.
pub fn top(args: &TopArgs) -> Result<ExitCode> {
    let (sender, inputs) = mpsc::channel();
    let stop = sender.clone();
    // A receiver that has gone no longer waits for anything.
    ctrlc::set_handler(move || drop(stop.send(Input::Stop))).context("failed to catch SIGINT and SIGTERM")?;
    let cgroup = args.cgroup.as_deref();
    let interval = Duration::from_secs(args.interval);
    let first = View::of(sample(cgroup)?, None);
    if io::stdout().is_terminal() && !args.json {
        on_screen(cgroup, interval, first, &inputs, sender)?;
    } else {
        let show = if args.json {
            json
        } else {
            |view: &View| Ok(plain::text(view))
        };
        as_text(cgroup, interval, first, &inputs, show)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn sample(cgroup: Option<&Path>) -> Result<Sample> {
    let status = ask::sample(cgroup)?;
    let at = Instant::now();
    let flows = ask::flows(cgroup)?;
    Ok(Sample { at, status, flows })
}

/// One line: `status` as printed by that command, and the flows.
fn json(view: &View) -> Result<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        status: &'a Status,
        flows: Vec<&'a Flow>,
    }
    let line = Line {
        status: &view.status,
        flows: view.rows.iter().map(|row| &row.flow).collect(),
    };
    Ok(serde_json::to_string(&line)? + "\n")
}

/// The view after another one; fails if the instance no longer answers.
fn next(cgroup: Option<&Path>, view: &View) -> Result<View> {
    let sample = sample(cgroup).with_context(|| {
        let shown = folders(&view.status.instance.cgroups);
        format!("failed to go on watching the instance on cgroup {shown}")
    })?;
    Ok(View::of(sample, Some(view)))
}

fn on_screen(
    cgroup: Option<&Path>,
    interval: Duration,
    mut view: View,
    inputs: &Receiver<Input>,
    sender: Sender<Input>,
) -> Result<()> {
    let mut screen = Screen::take()?;
    // This thread waits for the terminal until the process exits.
    thread::spawn(move || forward_events(&sender));
    let mut display = Display::default();
    let mut due = Instant::now() + interval;
    loop {
        screen.draw(&view, &mut display)?;
        match inputs.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Ok(Input::Terminal(event)) => {
                let event = event.context("failed to read the keys")?;
                if matches!(event, Event::Key(key) if !display.press(key)) {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                due = Instant::now() + interval;
                if !display.is_paused {
                    view = next(cgroup, &view)?;
                }
            }
        }
    }
}

/// Forwards keys and resizes, until one cannot be read.
fn forward_events(sender: &Sender<Input>) {
    loop {
        let event = event::read();
        let has_failed = event.is_err();
        if sender.send(Input::Terminal(event)).is_err() || has_failed {
            return;
        }
    }
}

fn as_text(
    cgroup: Option<&Path>,
    interval: Duration,
    mut view: View,
    inputs: &Receiver<Input>,
    show: fn(&View) -> Result<String>,
) -> Result<()> {
    let mut out = io::stdout().lock();
    loop {
        if !matches!(inputs.recv_timeout(interval), Err(RecvTimeoutError::Timeout)) {
            return Ok(());
        }
        view = next(cgroup, &view)?;
        match out.write_all(show(&view)?.as_bytes()).and_then(|()| out.flush()) {
            // A reader that has closed its end is not an error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("failed to write to standard output")?,
        }
    }
}
