//! Owns the gate, where ends wait for the main thread.

use std::sync::{Condvar, Mutex, MutexGuard};

/// A point where ends wait until the main thread releases them.
#[derive(Default)]
pub struct Gate {
    state: Mutex<(u64, u64)>,
    changed: Condvar,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, (u64, u64)> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn arrive(&self) {
        self.lock().0 += 1;
        self.changed.notify_all();
    }

    pub fn is_open(&self, release: u64) -> bool {
        self.lock().1 >= release
    }

    pub fn wait_open(&self, release: u64) {
        let mut state = self.lock();
        while state.1 < release {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    pub fn wait_arrivals(&self, arrivals: u64) {
        let mut state = self.lock();
        while state.0 < arrivals {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    pub fn release(&self) {
        self.lock().1 += 1;
        self.changed.notify_all();
    }
}
