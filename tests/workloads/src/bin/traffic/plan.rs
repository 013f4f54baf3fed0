//! Owns the plan of a connection: both ends draw the same plan from the same random numbers, each keeps its own
//! operations, and the totals tell each what its peer will have sent.

use std::collections::VecDeque;

use workloads::pattern::Random;

use crate::conversation::{Op, Progress, Script, Side};

/// The operations of one end drawn so far.
pub struct Plan {
    this: Side,
    /// Bytes sent by each side once all operations so far are done.
    totals: [u64; 2],
    ops: VecDeque<Op>,
}

impl Plan {
    pub fn new(this: Side) -> Self {
        Self {
            this,
            totals: [0; 2],
            ops: VecDeque::new(),
        }
    }

    pub fn this(&self) -> Side {
        self.this
    }

    pub fn total(&self, side: Side) -> u64 {
        self.totals[side.index()]
    }

    pub fn next(&mut self) -> Option<Op> {
        self.ops.pop_front()
    }

    pub fn at(&mut self, side: Side, op: Op) {
        if side == self.this {
            self.ops.push_back(op);
        }
    }

    pub fn send(&mut self, from: Side, length: u64) {
        self.totals[from.index()] += length;
        self.at(from, Op::Send(length as usize));
    }

    /// Makes a side wait for everything that its peer has sent by then.
    pub fn catch_up(&mut self, side: Side) {
        self.at(side, Op::Await(self.total(side.other())));
    }

    pub fn await_eof(&mut self, side: Side) {
        self.at(side, Op::AwaitEof(self.total(side.other())));
    }

    /// One side closes; the other sees it and closes too.
    pub fn close(&mut self, first: Side) {
        self.at(first, Op::Close);
        self.await_eof(first.other());
        self.at(first.other(), Op::Close);
    }

    /// The last operations, with a last message if the ending has one. The closing side has read everything sent to it, as
    /// its close would otherwise be a reset.
    pub fn end(&mut self, ending: Ending, last: u64) {
        match ending {
            Ending::Close(side) | Ending::Silent(side) => {
                self.catch_up(side);
                self.close(side);
            }
            Ending::CloseAfterSend(side) => {
                self.catch_up(side);
                self.send(side, last);
                self.close(side);
            }
            Ending::HalfClose(side) => {
                self.at(side, Op::ShutdownWrite);
                self.await_eof(side.other());
                self.send(side.other(), last);
                self.close(side.other());
            }
            Ending::HalfCloses { first, late } => {
                let second = first.other();
                self.at(first, Op::ShutdownWrite);
                if late {
                    self.await_eof(second);
                    self.send(second, last);
                }
                self.at(second, Op::ShutdownWrite);
                self.await_eof(second);
                self.await_eof(first);
                self.at(self.this, Op::Close);
            }
            Ending::Reset(side) | Ending::ResetWhileSentTo(side) => {
                let from = if ending == Ending::Reset(side) {
                    side
                } else {
                    side.other()
                };
                self.send(from, last);
                self.at(side, Op::Reset);
                self.await_eof(side.other());
                self.at(side.other(), Op::Close);
            }
        }
    }
}

impl Script for Plan {
    fn next(&mut self, _: &Progress) -> Op {
        Plan::next(self).unwrap_or(Op::Close)
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// This side closes after the last answer.
    Close(Side),
    /// This side closes right after a last message, which must arrive.
    CloseAfterSend(Side),
    /// This side ends its direction first; the other sends a last message and closes.
    HalfClose(Side),
    /// One side ends its direction, then the other, after a last message if `late`.
    HalfCloses { first: Side, late: bool },
    /// This side resets right after a last message, which may be lost.
    Reset(Side),
    /// This side resets while its peer sends.
    ResetWhileSentTo(Side),
    /// Nobody ever sends anything, and this side closes.
    Silent(Side),
}

impl Ending {
    pub fn draw(random: &mut Random) -> Self {
        let side = any_side(random);
        match random.range(0, 9) {
            0..=1 => Ending::Close(side),
            2..=4 => Ending::CloseAfterSend(side),
            5..=6 => Ending::HalfClose(side),
            7 => Ending::Reset(side),
            8 => Ending::ResetWhileSentTo(side),
            _ => Ending::Silent(side),
        }
    }

    /// True if an end may see an error or miss bytes.
    pub fn is_reset(self) -> bool {
        matches!(self, Ending::Reset(_) | Ending::ResetWhileSentTo(_))
    }
}

pub fn any_side(random: &mut Random) -> Side {
    if random.chance(2) {
        Side::Client
    } else {
        Side::Server
    }
}
