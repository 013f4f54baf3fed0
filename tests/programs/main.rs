//! Programs of the distribution, on plain TCP and under the tool: what they answer must be the same.

#[path = "../common/mod.rs"]
mod common;

mod compare;
mod haproxy;
mod memcached;
mod nginx;
mod node;
mod postgres;
mod python;
mod redis;
mod stage;
mod web;
