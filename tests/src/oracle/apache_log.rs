//! Lines of a web server's access log.

use serde::Serialize;

#[derive(Serialize)]
pub struct Visit<'a> {
    pub ip: &'a str,
    pub user: &'a str,
    /// In ms.
    pub time: i64,
    pub method: &'a str,
    pub path: &'a str,
}

impl Visit<'_> {
    /// Fields are separated by blanks: ip, `-`, user, time, zone, method, path.
    pub fn parse(line: &str) -> Option<Visit<'_>> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[ip, _, user, time, zone, method, path, ..] = fields.as_slice() else {
            return None;
        };
        Some(Visit {
            ip,
            user,
            time: seconds_of(time, zone)?.checked_mul(1000)?,
            method,
            path,
        })
    }
}

/// Seconds since the epoch of `dd/MM/yyyy:HH:mm:ss` in a zone such as `+0200`.
fn seconds_of(time: &str, zone: &str) -> Option<i64> {
    let numbers: Option<Vec<i64>> = time
        .split(['/', ':'])
        .map(|part| part.parse().ok())
        .collect();
    let &[day, month, year, hour, minute, second] = numbers?.as_slice() else {
        return None;
    };
    let local = days_before(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(local - zone_seconds(zone)?)
}

/// How far the zone is ahead of UTC.
fn zone_seconds(zone: &str) -> Option<i64> {
    let (sign, digits) = zone.split_at_checked(1)?;
    let (hours, minutes) = digits.split_at_checked(2)?;
    let ahead = hours.parse::<i64>().ok()? * 3_600 + minutes.parse::<i64>().ok()? * 60;
    match sign {
        "+" => Some(ahead),
        "-" => Some(-ahead),
        _ => None,
    }
}

/// Days from 1970-01-01 to the date, counted year by year and month by month: slow and plain.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let years: i64 = if year >= 1970 {
        (1970..year).map(days_of_year).sum()
    } else {
        -(year..1970).map(days_of_year).sum::<i64>()
    };
    let months: i64 = (1..month).map(|m| days_of_month(year, m)).sum();
    years + months + day - 1
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_year(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::seconds_of;

    #[test]
    fn times_are_read_with_their_zone() {
        for (time, zone, seconds) in [
            ("17/05/2015:10:05:03", "+0000", 1_431_857_103),
            ("17/05/2015:12:05:03", "+0200", 1_431_857_103),
            ("17/05/2015:04:35:03", "-0530", 1_431_857_103),
            ("31/12/1969:23:59:59", "+0000", -1),
            ("29/02/2000:00:00:00", "+0000", 951_782_400),
            ("01/03/1900:00:00:00", "+0000", -2_203_891_200),
        ] {
            assert_eq!(seconds_of(time, zone), Some(seconds), "{time} {zone}");
        }
        assert_eq!(seconds_of("17/05/2015", "+0000"), None);
    }
}
