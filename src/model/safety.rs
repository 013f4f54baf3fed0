//! The checks of the self-test by name, and what each means.

/// What must hold for connections to be safe. The user may force a start without any of these.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SafetyCheck {
    /// That the other checks can be made.
    SelfTest,
    /// That anything is redirected at all.
    Redirects,
    /// That bytes stay in order between TCP and redirection.
    Order,
    /// That FIONREAD counts bytes queued by either path.
    Fionread,
    /// That each arrival raises an edge, and a short read has emptied the queue.
    EdgeTriggered,
    /// That a stopped reader stops its sender, in bytes and in messages.
    QueueBound,
    /// That data sent before a close arrives, followed by the end of the stream.
    AfterClose,
    /// That a connection goes back to TCP with all its bytes.
    Leaving,
}

impl SafetyCheck {
    /// In the order in which they are run.
    pub const ALL: [Self; 8] = [
        Self::SelfTest,
        Self::Redirects,
        Self::Order,
        Self::Fionread,
        Self::EdgeTriggered,
        Self::QueueBound,
        Self::AfterClose,
        Self::Leaving,
    ];
    /// The checks that each run on a connection of their own.
    pub const OF_CONNECTIONS: &'static [Self] = Self::ALL.split_at(1).1;

    /// As on the command line and in the output of `doctor`.
    pub fn name(self) -> &'static str {
        match self {
            Self::SelfTest => "self-test",
            Self::Redirects => "redirects",
            Self::Order => "order",
            Self::Fionread => "fionread",
            Self::EdgeTriggered => "edge-triggered",
            Self::QueueBound => "queue-bound",
            Self::AfterClose => "after-close",
            Self::Leaving => "leaving",
        }
    }

    /// What it means that the check passed.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::SelfTest => {
                "connections of its own, in a cgroup of their own, can be made for the next checks"
            }
            Self::Redirects => "what one end sends reaches the other end's queue past TCP",
            Self::Order => "bytes stay in order between TCP and redirection",
            Self::Fionread => "FIONREAD counts what was redirected and what came through TCP",
            Self::EdgeTriggered => "edge-triggered readers are woken by each arrival and read all of it",
            Self::QueueBound => "a reader that stops stops its sender",
            Self::AfterClose => "what was sent just before close arrives, and then the end",
            Self::Leaving => "connections that go back to TCP lose nothing",
        }
    }

    /// What it means that the check failed.
    pub fn failure(self) -> &'static str {
        match self {
            Self::SelfTest => "no connections can be made for the next checks",
            Self::Redirects => "messages are not redirected",
            Self::Order => "bytes get out of order between TCP and redirection",
            Self::Fionread => {
                "FIONREAD does not count what waits to be read, and programs that ask before they read would hang"
            }
            Self::EdgeTriggered => {
                "edge-triggered readers are not told of all that arrives, and programs that stop at a short read would hang"
            }
            Self::QueueBound => {
                "a reader that stops does not stop its sender, which would fill this host's memory"
            }
            Self::AfterClose => "what was sent just before close does not arrive",
            Self::Leaving => "connections do not get back to TCP, or lose bytes on their way",
        }
    }
}
