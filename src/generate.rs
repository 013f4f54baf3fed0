//! `sockredir generate`: manual pages and completions, from the definition of the command line.

use std::env;
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::{Args as _, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::{Cli, Generate, RunArgs};
use crate::output::print;

const NAME: &str = "sockredir";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// That of programs for the administrator.
const SECTION: &str = "8";

const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "It did what it was asked for."),
    (
        "1",
        "It failed or refused to start; one line on standard error says why and what to do.",
    ),
    ("2", "The command line makes no sense."),
];
const FILES: [(&str, &str); 2] = [
    ("/etc/default/sockredir", "The options of the service."),
    (
        "/var/lib/sockredir/programs",
        "What is known of programs, from one start to the next.",
    ),
];

pub fn generate(what: &Generate) -> Result<()> {
    match what {
        Generate::Man { folder } => write_pages(folder, date().as_deref()),
        Generate::Completions { shell } => print(&completions(*shell)).map(|_| ()),
    }
}

/// The day of SOURCE_DATE_EPOCH; without that variable a page has no date, so that the same source makes the same page.
fn date() -> Option<String> {
    let seconds = env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()?;
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    let mut date = humantime::format_rfc3339_seconds(time).to_string();
    date.truncate("2026-01-31".len());
    Some(date)
}

fn write_pages(folder: &Path, date: Option<&str>) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to make the folder {}", folder.display()))?;
    for (name, text) in pages(date)? {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

/// The name and the text of each page: that of the program, and those of its commands.
fn pages(date: Option<&str>) -> Result<Vec<(String, Vec<u8>)>> {
    let mut root = Cli::command().version(VERSION).disable_help_subcommand(true);
    root.build();
    let commands: Vec<Command> = visible(&root).cloned().collect();
    let names: Vec<String> = commands.iter().map(page_name).collect();

    let mut pages = vec![page(root, date, &names)?];
    for command in commands {
        pages.push(page(command, date, &[NAME.to_owned()])?);
    }
    Ok(pages)
}

fn page(command: Command, date: Option<&str>, see_also: &[String]) -> Result<(String, Vec<u8>)> {
    let name = page_name(&command);
    let file = format!("{name}.{SECTION}");
    let man = Man::new(command)
        .title(name.to_uppercase())
        .section(SECTION)
        .date(date.unwrap_or_default())
        .source(format!("{NAME} {VERSION}"))
        .manual("System Administration");
    let mut text = Vec::new();
    man.render(&mut text)
        .with_context(|| format!("failed to render {file}"))?;
    let mut text = without_idle_breaks(&String::from_utf8_lossy(&text));
    text.push_str(&closing(see_also).to_roff());
    Ok((file, text.into_bytes()))
}

/// clap_mangen breaks lines before and after a blank line too, of which mandoc warns.
fn without_idle_breaks(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_blank = |index: Option<usize>| index.and_then(|index| lines.get(index)) == Some(&"");
    let kept = lines.iter().enumerate().filter(|(index, line)| {
        **line != ".br" || !(is_blank(index.checked_sub(1)) || is_blank(index.checked_add(1)))
    });
    kept.map(|(_, line)| format!("{line}\n")).collect()
}

/// The sections that the definition of the command line does not give.
fn closing(see_also: &[String]) -> Roff {
    let mut roff = Roff::new();
    for (heading, entries) in [("EXIT STATUS", &EXIT_STATUS[..]), ("FILES", &FILES)] {
        roff.control("SH", [heading]);
        for (term, meaning) in entries {
            roff.control("TP", []);
            roff.text([bold(*term)]);
            roff.text([roman(*meaning)]);
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    for (index, name) in see_also.iter().enumerate() {
        let comma = if index + 1 < see_also.len() { "," } else { "" };
        roff.text([bold(name.as_str()), roman(format!("({SECTION}){comma}"))]);
    }
    roff
}

/// As in the manual: the program and the command, with a hyphen between them.
fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or(NAME).to_owned()
}

fn visible(root: &Command) -> impl Iterator<Item = &Command> {
    root.get_subcommands().filter(|command| !command.is_hide_set())
}

/// Completions take no notice of what is hidden, so they are made of a command that does not have it.
fn completions(shell: Shell) -> String {
    let full = Cli::command();
    let mut shown = RunArgs::augment_args(Command::new(NAME))
        .version(VERSION)
        .subcommands(visible(&full).cloned());
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut shown, NAME, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(name: &str) -> String {
        let pages = pages(Some("2026-01-31")).unwrap();
        let (_, text) = pages.into_iter().find(|(file, _)| file == name).expect(name);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn every_command_that_is_shown_has_a_page_and_completions() {
        let root = Cli::command();
        let pages = pages(None).unwrap();
        assert_eq!(pages.len(), 1 + visible(&root).count());
        let files: Vec<_> = pages.iter().map(|(file, _)| file.as_str()).collect();
        for command in visible(&root) {
            let name = command.get_name();
            assert!(
                files.contains(&format!("sockredir-{name}.8").as_str()),
                "{name}: {files:?}"
            );
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                assert!(completions(shell).contains(name), "{name}: {shell}");
            }
        }
    }

    #[test]
    fn what_is_hidden_is_in_none_of_them() {
        let root = Cli::command();
        for command in root.get_subcommands().filter(|command| command.is_hide_set()) {
            let name = command.get_name();
            assert!(!page_of("sockredir.8").contains(name), "{name}");
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                assert!(!completions(shell).contains(name), "{name}: {shell}");
            }
        }
    }

    #[test]
    fn a_page_has_its_version_date_options_and_relations() {
        let page = page_of("sockredir-run.8");
        for part in [
            ".TH SOCKREDIR-RUN 8 2026-01-31",
            VERSION,
            "drain\\-timeout",
            ".SH \"EXIT STATUS\"",
            "\\fBsockredir\\fR(8)",
        ] {
            assert!(page.contains(part), "{part} is not in: {page}");
        }
        assert!(page_of("sockredir.8").contains("\\fBsockredir\\-run\\fR(8),"));
    }
}
