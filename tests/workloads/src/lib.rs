//! What the programs of this package share: the bytes that they compare, the pace of the machine, which the tests take from here
//! too, and the system calls.

pub mod pace;
pub mod pattern;
pub mod sys;
