//! HTTPS outcalls of canisters: kept until a test answers them, or until they time out.
//!
//! Nothing is ever fetched from the network, in live mode neither.

use candid::Principal;
use ic_management_canister_types::{
    HttpHeader, HttpMethod, HttpRequestArgs, HttpRequestResult, TransformArgs,
};
use pocket_ic::ErrorCode;
use pocket_ic::common::rest::{
    CanisterHttpHeader, CanisterHttpMethod, CanisterHttpPricingVersion, CanisterHttpReplication,
    CanisterHttpReply, CanisterHttpResponse, RawCanisterHttpRequest, RawMockCanisterHttpResponse,
};

use crate::errors::Reject;
use crate::ic::Ic;
use crate::message::{Call, Outcall, Query};

const TIMEOUT_NANOS: u64 = 60_000_000_000;

impl Ic {
    /// Takes up an outcall; its caller is answered later.
    pub fn start_outcall(&mut self, call: &Call, args: HttpRequestArgs) -> Result<(), Reject> {
        let price = self.prices_of(call.caller).http_request(
            args.url.len() as u64 + args.body.as_ref().map_or(0, |body| body.len() as u64),
            args.max_response_bytes.unwrap_or(crate::cycles::MESSAGE_BYTES_MAX),
        );
        let Some(refund) = call.cycles.checked_sub(price) else {
            return Err(Reject::new(
                ErrorCode::CanisterRejectedMessage,
                format!(
                    "http_request request sent with {} cycles, but {price} cycles are required.",
                    call.cycles
                ),
            ));
        };
        if !args.url.starts_with("https://") && !args.url.starts_with("http://") {
            return Err(Reject::new(
                ErrorCode::CanisterRejectedMessage,
                format!("Invalid URL: {}", args.url),
            ));
        }
        let subnet = self.subnet_of(call.caller).id();
        let number = self.number();
        let request = RawCanisterHttpRequest {
            subnet_id: subnet.into(),
            request_id: number,
            http_method: method(args.method),
            url: args.url,
            headers: args.headers.into_iter().map(header_out).collect(),
            body: args.body.unwrap_or_default(),
            max_response_bytes: args.max_response_bytes,
            replication: match args.is_replicated {
                Some(false) => CanisterHttpReplication::NonReplicated,
                _ => CanisterHttpReplication::FullyReplicated,
            },
            pricing_version: CanisterHttpPricingVersion::Legacy,
        };
        let transform = args.transform.map(|t| (t.function.0.method.clone(), t.context));
        let outcall = Outcall {
            origin: call.origin.clone(),
            caller: call.caller,
            started: self.time,
            refund,
            request,
            transform,
        };
        self.outcalls.insert(number, outcall);
        Ok(())
    }

    pub fn pending_outcalls(&self) -> Vec<RawCanisterHttpRequest> {
        self.outcalls.values().map(|o| o.request.clone()).collect()
    }

    /// Answers an outcall the way a test wants it answered: with one response of all nodes, or
    /// with one of each.
    pub fn mock_outcall(&mut self, mock: RawMockCanisterHttpResponse) -> Result<(), String> {
        let Some(outcall) = self.outcalls.get(&mock.request_id).cloned() else {
            return Err(format!("no pending outcall has the id {}", mock.request_id));
        };
        let nodes = self.subnet_of(outcall.caller).plan.nodes() as usize;
        if !matches!(mock.additional_responses.len(), more if more == 0 || more + 1 == nodes) {
            return Err(format!(
                "{} responses were given; there must be one, or one of each of the {nodes} nodes",
                mock.additional_responses.len() + 1
            ));
        }
        let results: Vec<_> = std::iter::once(mock.response)
            .chain(mock.additional_responses)
            .map(|response| match response {
                CanisterHttpResponse::CanisterHttpReply(reply) => self.transformed(&outcall, reply),
                CanisterHttpResponse::CanisterHttpReject(reject) => {
                    Err(Reject::new(code_of(reject.reject_code), reject.message))
                }
            })
            .collect();
        let result = match outcall.request.replication {
            CanisterHttpReplication::FullyReplicated => agreed(&results).unwrap_or_else(|| {
                let why = "No consensus could be reached. Replicas had different responses.";
                Err(Reject::new(ErrorCode::IngressMessageTimeout, why))
            }),
            _ => results[0].clone(),
        };
        self.outcalls.remove(&mock.request_id);
        self.answer(&outcall.origin, result, outcall.refund);
        Ok(())
    }

    fn transformed(&self, outcall: &Outcall, reply: CanisterHttpReply) -> Result<Vec<u8>, Reject> {
        let response = HttpRequestResult {
            status: reply.status.into(),
            headers: reply.headers.into_iter().map(header_in).collect(),
            body: reply.body,
        };
        let Some((method, context)) = &outcall.transform else {
            return Ok(candid::encode_one(response).expect("plain data"));
        };
        let args = TransformArgs { response, context: context.clone() };
        self.query(Query {
            sender: Principal::management_canister(),
            canister: outcall.caller,
            method,
            arg: candid::encode_one(args).expect("plain data"),
        })
    }

    pub fn expire_outcalls(&mut self) {
        let is_late = |outcall: &Outcall, now: u64| now - outcall.started.min(now) > TIMEOUT_NANOS;
        let late: Vec<u64> = self
            .outcalls
            .iter()
            .filter(|(_, outcall)| is_late(outcall, self.time))
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            let outcall = self.outcalls.remove(&number).expect("just listed");
            let reject =
                Reject::new(ErrorCode::IngressMessageTimeout, "Canister http request timed out");
            self.answer(&outcall.origin, Err(reject), outcall.refund);
        }
    }
}

/// What so many nodes say that the rest, if they are faulty, cannot say otherwise.
fn agreed<T: Clone + PartialEq>(said: &[T]) -> Option<T> {
    let needed = said.len() - (said.len() - 1) / 3;
    let is_agreed = |one: &&T| said.iter().filter(|other| other == one).count() >= needed;
    said.iter().find(is_agreed).cloned()
}

fn code_of(reject_code: u64) -> ErrorCode {
    match reject_code {
        1 => ErrorCode::SubnetOversubscribed,
        2 => ErrorCode::IngressMessageTimeout,
        3 => ErrorCode::CanisterNotFound,
        _ => ErrorCode::CanisterRejectedMessage,
    }
}

fn method(method: HttpMethod) -> CanisterHttpMethod {
    match method {
        HttpMethod::GET => CanisterHttpMethod::GET,
        HttpMethod::HEAD => CanisterHttpMethod::HEAD,
        HttpMethod::POST => CanisterHttpMethod::POST,
        HttpMethod::PUT => CanisterHttpMethod::PUT,
        HttpMethod::DELETE => CanisterHttpMethod::DELETE,
        HttpMethod::PATCH => CanisterHttpMethod::PATCH,
    }
}

fn header_out(header: HttpHeader) -> CanisterHttpHeader {
    CanisterHttpHeader { name: header.name, value: header.value }
}

fn header_in(header: CanisterHttpHeader) -> HttpHeader {
    HttpHeader { name: header.name, value: header.value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_nodes_may_differ_and_no_more() {
        let said = |differing: usize| [vec!['a'; 13 - differing], vec!['b'; differing]].concat();
        assert_eq!(agreed(&said(0)), Some('a'));
        assert_eq!(agreed(&said(4)), Some('a'));
        assert_eq!(agreed(&said(5)), None);
        assert_eq!(agreed(&['a']), Some('a'));
    }
}
