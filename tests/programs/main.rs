//! Programs from the distribution, on plain TCP and under the tool: their answers must be the same.

#[path = "../common/mod.rs"]
mod common;

mod compare;
mod haproxy;
mod known;
mod memcached;
mod nginx;
mod node;
mod pools;
mod postgres;
mod python;
mod redis;
mod seen;
#[allow(dead_code, reason = "the comparison starts them too, some in its own way")]
mod servers;
#[allow(dead_code, reason = "the comparison uses more of it")]
mod stage;
mod web;
