//! The user's choice of what to show, and the keys that change it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::table::Order;

/// One line, at the bottom of the screen.
pub const HELP: &str = "q quit  s sort  r reverse  \u{2191} \u{2193} PgUp PgDn scroll  p pause  h help";

#[derive(Debug, Default)]
pub struct Display {
    pub order: Order,
    pub is_reversed: bool,
    /// Index of the first flow shown; drawing keeps it in range.
    pub first: usize,
    /// How many flows the screen showed last.
    pub page: usize,
    pub is_paused: bool,
    pub shows_help: bool,
}

impl Display {
    /// False to quit.
    pub fn press(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return true;
        }
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            KeyCode::Char('h' | '?') => self.shows_help = !self.shows_help,
            KeyCode::Up => self.first = self.first.saturating_sub(1),
            KeyCode::Down => self.first = self.first.saturating_add(1),
            KeyCode::PageUp => self.first = self.first.saturating_sub(self.page),
            KeyCode::PageDown => self.first = self.first.saturating_add(self.page),
            _ => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(display: &mut Display, code: KeyCode) -> bool {
        display.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn q_escape_and_control_c_quit() {
        let mut display = Display::default();
        assert!(!press(&mut display, KeyCode::Char('q')));
        assert!(!press(&mut display, KeyCode::Esc));
        assert!(!display.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(press(&mut display, KeyCode::Char('c')));
    }

    #[test]
    fn s_goes_round_the_orders() {
        let mut display = Display::default();
        let mut seen = Vec::new();
        while seen.is_empty() || display.order != Order::Rate {
            seen.push(display.order);
            press(&mut display, KeyCode::Char('s'));
        }
        assert_eq!(seen.len(), 10);
    }

    #[test]
    fn scrolling_does_not_go_above_the_first_flow() {
        let mut display = Display {
            page: 10,
            ..Display::default()
        };
        press(&mut display, KeyCode::Up);
        assert_eq!(display.first, 0);
        press(&mut display, KeyCode::PageDown);
        press(&mut display, KeyCode::Up);
        assert_eq!(display.first, 9);
        press(&mut display, KeyCode::PageUp);
        assert_eq!(display.first, 0);
    }
}
