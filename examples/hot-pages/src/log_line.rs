//! Reads a line of the access log. Pure; called by the job's `parse`.

use streamrt_sdk::prelude::*;

/// A request.
#[derive(Record, Clone, Debug, PartialEq)]
pub struct Visit {
    pub ip: String,
    pub user: String,
    /// In ms since the epoch.
    pub time: i64,
    pub method: String,
    pub path: String,
}

/// Reads a line: ip, `-`, user, time, zone, method and path, separated by blanks.
///
/// # Errors
/// A sentence that names what cannot be read.
pub fn parse(line: &str) -> Result<Visit> {
    let mut fields = line.split_whitespace();
    let mut field = |name: &str| {
        fields
            .next()
            .ok_or_else(|| Error::new(format!("the line ends before its {name}")))
    };
    let (ip, _, user) = (field("ip")?, field("identity")?, field("user")?);
    let (time, zone, method, path) = (
        field("time")?,
        field("zone")?,
        field("method")?,
        field("path")?,
    );
    let seconds = local_seconds(time)
        .zip(zone_seconds(zone))
        .map(|(local, ahead)| local - ahead);
    let seconds = seconds.ok_or_else(|| {
        Error::new(format!(
            "`{time} {zone}` is no time of the form dd/MM/yyyy:HH:mm:ss +zone"
        ))
    })?;
    Ok(Visit {
        ip: ip.into(),
        user: user.into(),
        time: seconds * 1000,
        method: method.into(),
        path: path.into(),
    })
}

fn number(text: &str, least: i64, most: i64) -> Option<i64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|number| digits && (least..=most).contains(number))
}

/// Seconds between 1970-01-01 00:00:00 and `dd/MM/yyyy:HH:mm:ss` on one clock.
fn local_seconds(text: &str) -> Option<i64> {
    let mut parts = text.split(['/', ':']);
    let mut next = |least, most| number(parts.next()?, least, most);
    let (day, month, year) = (next(1, 31)?, next(1, 12)?, next(0, 9999)?);
    let (hour, minute, second) = (next(0, 23)?, next(0, 59)?, next(0, 60)?);
    let days = days_since_1970(year, month, day).filter(|_| parts.next().is_none())?;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// How far a zone such as `+0200` is ahead of UTC, in seconds.
fn zone_seconds(zone: &str) -> Option<i64> {
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = digits.split_at_checked(2).filter(|_| digits.len() == 4)?;
    Some(sign * (number(hours, 0, 23)? * 3600 + number(minutes, 0, 59)? * 60))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days of the Gregorian calendar, also before 1970; `None` if the month has no such day.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    const BEFORE_MONTH: [i64; 13] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365];
    let leap_day = i64::from(is_leap(year));
    let length = BEFORE_MONTH[month as usize] - BEFORE_MONTH[month as usize - 1]
        + if month == 2 { leap_day } else { 0 };
    // 719,162 days from the first day of year 1 to 1970-01-01; whole years bring a leap day every
    // 4th, not the 100th, but the 400th.
    let past = year - 1;
    let years =
        past * 365 + past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400) - 719_162;
    let months = BEFORE_MONTH[month as usize - 1] + if month > 2 { leap_day } else { 0 };
    (day <= length).then_some(years + months + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_zone() {
        for (time, ms) in [
            ("17/05/2015:10:05:03 +0000", 1_431_857_103_000),
            ("17/05/2015:12:05:03 +0200", 1_431_857_103_000),
            ("17/05/2015:04:35:03 -0530", 1_431_857_103_000),
            ("31/12/1969:23:59:59 +0000", -1_000),
            ("29/02/2000:00:00:00 +0000", 951_782_400_000),
            ("01/03/1900:00:00:00 +0000", -2_203_891_200_000),
        ] {
            let visit = parse(&format!("83.149.9.216 - -  {time} GET /a?b"))
                .map_err(|e| e.message().to_owned())
                .unwrap();
            assert_eq!(
                (visit.time, visit.method.as_str(), visit.path.as_str()),
                (ms, "GET", "/a?b"),
                "{time}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (line, sentence) in [
            ("83.149.9.216 - -", "the line ends before its time"),
            (
                "1 - - 17/05/2015:10:05:03 +0000 GET",
                "the line ends before its path",
            ),
            (
                "1 - - 30/02/2015:10:05:03 +0000 GET /",
                "`30/02/2015:10:05:03 +0000` is no time of the form dd/MM/yyyy:HH:mm:ss +zone",
            ),
            (
                "1 - - 17/05/2015:10:05 +0000 GET /",
                "`17/05/2015:10:05 +0000` is no time of the form dd/MM/yyyy:HH:mm:ss +zone",
            ),
            (
                "1 - - 17/05/2015:10:05:03 0000 GET /",
                "`17/05/2015:10:05:03 0000` is no time of the form dd/MM/yyyy:HH:mm:ss +zone",
            ),
        ] {
            assert_eq!(
                parse(line).map_err(|e| e.message().to_owned()),
                Err(sentence.to_owned())
            );
        }
    }
}
