//! What is wrong when this machine's clock is.
//!
//! The Internet Computer takes no call that expires in the past or far ahead, and an agent believes no
//! certificate that is old by its own clock. Both fail with words that hide the cause, so the gateway
//! is asked what time it is. It could lie: its word goes into the log, and nothing is done on it. What
//! is checked against the clock is worth something only if nobody on the way can set it.

use std::time::{Duration, SystemTime};

use ic_agent::AgentError;
use reqwest::header::DATE;
use url::Url;

/// How far off a clock may be before it is named as the cause. The first calls fail at about twice
/// that.
const OFF_MIN: Duration = Duration::from_secs(60);
/// How long the gateway may take to tell the time.
const TELL_MAX: Duration = Duration::from_secs(5);

/// Whether a wrong clock would explain this.
pub(crate) fn would_explain(error: &AgentError) -> bool {
    match error {
        AgentError::CertificateOutdated(_) => true,
        AgentError::HttpError(payload) => {
            payload.status == 400 && String::from_utf8_lossy(&payload.content).contains("expiry")
        }
        _ => false,
    }
}

/// Says how far this machine's clock is off, if it is, going by the gateway's.
pub(crate) async fn complaint(gateway: &Url) -> Option<String> {
    let asked = tokio::time::timeout(TELL_MAX, reqwest::get(gateway.clone())).await;
    let date = asked.ok()?.ok()?.headers().get(DATE)?.to_str().ok()?.to_owned();
    complaint_at(SystemTime::now(), httpdate::parse_http_date(&date).ok()?)
}

fn complaint_at(ours: SystemTime, theirs: SystemTime) -> Option<String> {
    let (off, how) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let seconds = off.as_secs();
    (off >= OFF_MIN).then(|| {
        format!("the clock of this machine is {seconds} s {how} the gateway's; set it right")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_named_with_how_far() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(43_200);
        let hour = Duration::from_secs(3_600);
        let ahead = complaint_at(noon + hour, noon).unwrap();
        assert!(ahead.contains("is 3600 s ahead of the gateway's"), "{ahead}");
        let behind = complaint_at(noon - hour, noon).unwrap();
        assert!(behind.contains("is 3600 s behind the gateway's"), "{behind}");
        assert_eq!(complaint_at(noon + Duration::from_secs(30), noon), None);
    }
}
