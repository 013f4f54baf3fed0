//! The values of options, and how they are read.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::model::document::FlowState;
use crate::model::reasons::reason;
use crate::model::safety::SafetyCheck;

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Admit {
    /// Programs whose sockets are non-blocking: event loops, which see no difference but speed
    Nonblocking,
    /// Blocking programs as well; some of their calls may return early or with EAGAIN
    Any,
}

impl Admit {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nonblocking => "nonblocking",
            Self::Any => "any",
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Scope {
    /// Those over loopback, within one network namespace
    Loopback,
    /// Those between network namespaces as well: over veth and bridges, with addresses translated or not
    Host,
}

impl Scope {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Host => "host",
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Adopt {
    /// Those that are there at the start
    Start,
    /// These, and later those that were refused or have left and may be accelerated now
    Auto,
    /// None
    Off,
}

impl Adopt {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

impl ValueEnum for SafetyCheck {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// What a flow has to have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FlowFilter {
    /// At either end.
    Port(u16),
    /// A name, or the number of a process.
    Process(String),
    State(FlowState),
    Reason(String),
}

/// What the rows are sorted by.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum FlowOrder {
    /// Address and port of the client
    Client,
    /// Address and port of the server
    Server,
    /// Admitted flows first
    State,
    Reason,
    /// The most bytes first, by either path
    Bytes,
    /// The most redirected bytes first
    Redirected,
    /// The fullest queue first
    Queue,
    /// The fullest queue ever first
    Peak,
    /// The oldest first
    Age,
}

impl FromStr for FlowFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or("a filter is such as port=80 or process=nginx")?;
        match key {
            "port" => match value.parse() {
                Ok(port) if port > 0 => Ok(Self::Port(port)),
                _ => Err(format!("`{value}` is not a port from 1 to 65535")),
            },
            "process" if !value.is_empty() => Ok(Self::Process(value.to_owned())),
            "process" => Err("name a process, or give its number".to_owned()),
            "state" => match FlowState::ALL.into_iter().find(|state| state.name() == value) {
                Some(state) => Ok(Self::State(state)),
                None => Err(format!(
                    "`{value}` is not a state: {}",
                    FlowState::ALL.map(FlowState::name).join(", ")
                )),
            },
            "reason" => match reason(value) {
                Some(reason) => Ok(Self::Reason(reason.name.to_owned())),
                None => Err(format!("`{value}` is not a reason: docs/reference.md lists them")),
            },
            _ => Err(format!("`{key}` is not one of port, process, state and reason")),
        }
    }
}

/// What is to be explained.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subject {
    Port(u16),
    Process(u32),
    /// A port if somebody uses it, or else a process.
    Either(u16),
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is neither a port nor the number of a process; port:N and pid:N say which it is"
            )
        };
        let nonzero = |number: u32| if number > 0 { Ok(number) } else { Err(wrong()) };
        if let Some(port) = text.strip_prefix("port:") {
            let port: u16 = port.parse().map_err(|_| wrong())?;
            return nonzero(port.into()).map(|_| Self::Port(port));
        }
        let number = nonzero(
            text.strip_prefix("pid:")
                .unwrap_or(text)
                .parse()
                .map_err(|_| wrong())?,
        )?;
        Ok(match u16::try_from(number) {
            Ok(number) if !text.starts_with("pid:") => Self::Either(number),
            _ => Self::Process(number),
        })
    }
}

/// A port, which is then one of 127.0.0.1, or an address and a port. Port 0 is any that is free.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|_| is_number);
    port.map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .or_else(|| text.parse().ok())
        .ok_or_else(|| {
            format!("`{text}` is neither a port up to 65535 nor an address and a port such as 0.0.0.0:9464 or [::]:9464")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_make_no_sense_are_refused() {
        for text in [
            "80",
            "port=0",
            "port=x",
            "process=",
            "state=fast",
            "reason=none",
            "name=x",
        ] {
            assert!(text.parse::<FlowFilter>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_is_loopback_unless_it_says_otherwise() {
        for (text, meant) in [
            ("9464", "127.0.0.1:9464"),
            ("0", "127.0.0.1:0"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:9464", "[::1]:9464"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), meant);
        }
        for text in [
            "",
            "65536",
            "+80",
            ":9464",
            "::1:9464",
            "localhost:9464",
            "127.0.0.1",
            "a b",
        ] {
            let error = address(text).unwrap_err();
            assert!(
                error.starts_with(&format!("`{text}` is neither a port")),
                "{error}"
            );
        }
    }
}
