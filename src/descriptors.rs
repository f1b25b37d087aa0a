//! How many files and sockets this process may have open at once.
//!
//! Service managers start programs with a soft limit of 1,024, for the sake of old ones, and a far higher hard one. A
//! server that meets its limit can neither take a connection nor reach its database again, so it asks for what it needs
//! when it starts, and takes no more connections than fit.

use std::io;

/// What is open besides connections of callers and of the database: listener, pollers, secrets, log.
const BESIDES: u64 = 128;

/// Raises the limit as far as it may for so many connections of callers beside so many to the database. Gives how many
/// of the former there is room for: in the log when those are fewer.
pub fn room_for(callers: usize, database: usize) -> usize {
    let besides = BESIDES + database as u64;
    match raise(callers as u64 + besides) {
        Ok(limit) => {
            let room = room(callers, besides, limit);
            if room < callers {
                tracing::warn!(connections_max = callers, room, limit, "the limit of open files leaves less room");
            }
            room
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the limit of open files cannot be read");
            callers
        }
    }
}

fn room(callers: usize, besides: u64, limit: u64) -> usize {
    let room = limit.saturating_sub(besides).max(1);
    callers.min(usize::try_from(room).unwrap_or(usize::MAX))
}

/// Raises the soft limit to `wanted`, or as far as the hard one lets it. Gives what it is then.
fn raise(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is ours and lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur >= wanted {
        return Ok(limit.rlim_cur);
    }
    let raised = libc::rlimit { rlim_cur: wanted.min(limit.rlim_max), ..limit };
    // SAFETY: the structure is ours and lives through the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(error = &error as &dyn std::error::Error, "the limit of open files cannot be raised");
        return Ok(limit.rlim_cur);
    }
    Ok(raised.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_callers_are_taken_than_files_may_be_open() {
        for (callers, limit, room_left) in
            [(25_000, 30_000, 25_000), (25_000, 1_024, 874), (25_000, 100, 1), (10, u64::MAX, 10)]
        {
            assert_eq!(room(callers, 150, limit), room_left, "{callers} {limit}");
        }
    }

    #[test]
    fn the_limit_is_raised_and_never_lowered() {
        let before = raise(0).unwrap();
        let after = raise(before + 1).unwrap();
        assert!(after == before + 1 || after == before, "{before} became {after}");
        assert_eq!(raise(0).unwrap(), after);
    }
}
