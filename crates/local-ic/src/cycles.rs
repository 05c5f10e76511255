//! Prices, in cycles, of a 13-node application subnet; other sizes pay in proportion, system
//! subnets and those with a free schedule pay nothing.

const UPDATE: u128 = 5_000_000;
const INGRESS: u128 = 1_200_000;
const INGRESS_BYTE: u128 = 2_000;
const CALL: u128 = 260_000;
const CALL_BYTE: u128 = 1_000;
const CREATE: u128 = 500_000_000_000;
const GIB_SECOND: u128 = 127_000;
const COMPUTE_PERCENT_SECOND: u128 = 10_000_000;
const COMPILE_INSTRUCTION: u128 = 6_000;
const HTTP_REQUEST: u128 = 49_140_000;
const HTTP_REQUEST_BYTE: u128 = 5_200;
const HTTP_RESPONSE_BYTE: u128 = 10_400;
const SNAPSHOT_INSTRUCTIONS: u128 = 2_000_000_000;

const REFERENCE_NODES: u128 = 13;
const GIB: u128 = 1 << 30;
pub const MESSAGE_BYTES_MAX: u64 = 2 << 20;
pub const SECONDS_PER_DAY: u64 = 86_400;

#[derive(Clone, Copy, Debug)]
pub struct Prices {
    pub nodes: u32,
    pub is_free: bool,
}

/// How much a canister occupies and reserves.
#[derive(Clone, Copy, Debug)]
pub struct Occupied {
    pub memory_bytes: u64,
    pub memory_allocation: u64,
    pub compute_percent: u64,
}

impl Prices {
    fn scaled(&self, cycles: u128) -> u128 {
        if self.is_free {
            return 0;
        }
        cycles * self.nodes as u128 / REFERENCE_NODES
    }

    pub fn execution(&self, instructions: u64) -> u128 {
        self.scaled(UPDATE + instructions as u128)
    }

    pub fn ingress(&self, bytes: usize) -> u128 {
        self.scaled(INGRESS + INGRESS_BYTE * bytes as u128)
    }

    pub fn transmission(&self, bytes: usize) -> u128 {
        self.scaled(CALL_BYTE * bytes as u128)
    }

    /// The request, and in advance the largest response and the longest callback.
    pub fn call(&self, payload_bytes: usize) -> u128 {
        self.scaled(CALL) + self.transmission(payload_bytes) + self.prepaid()
    }

    pub fn prepaid(&self) -> u128 {
        self.transmission(MESSAGE_BYTES_MAX as usize)
            + self.execution(crate::wasm::costs::UPDATE_LIMIT)
    }

    pub fn create_canister(&self) -> u128 {
        self.scaled(CREATE)
    }

    pub fn compile(&self, operators: u64) -> u128 {
        self.scaled(COMPILE_INSTRUCTION * operators as u128)
    }

    pub fn http_request(&self, request_bytes: u64, response_bytes_max: u64) -> u128 {
        self.scaled(
            HTTP_REQUEST
                + HTTP_REQUEST_BYTE * request_bytes as u128
                + HTTP_RESPONSE_BYTE * response_bytes_max as u128,
        )
    }

    /// Taking or loading a snapshot: a base price, and as much again for each byte.
    pub fn snapshot(&self, bytes: u64) -> u128 {
        self.scaled(SNAPSHOT_INSTRUCTIONS + bytes as u128)
    }

    pub fn idle(&self, occupied: Occupied, nanos: u64) -> u128 {
        let bytes = occupied.memory_bytes.max(occupied.memory_allocation) as u128;
        let memory = bytes * GIB_SECOND * nanos as u128 / (GIB * 1_000_000_000);
        let compute = occupied.compute_percent as u128 * COMPUTE_PERCENT_SECOND * nanos as u128
            / 1_000_000_000;
        self.scaled(memory + compute)
    }

    pub fn idle_per_day(&self, occupied: Occupied) -> u128 {
        self.idle(occupied, SECONDS_PER_DAY * 1_000_000_000)
    }

    pub fn freezing(&self, occupied: Occupied, threshold_seconds: u64) -> u128 {
        self.idle_per_day(occupied) * threshold_seconds as u128 / SECONDS_PER_DAY as u128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPLICATION: Prices = Prices { nodes: 13, is_free: false };

    #[test]
    fn an_update_costs_five_million_and_its_instructions() {
        assert_eq!(APPLICATION.execution(1_469_954), 6_469_954);
    }

    #[test]
    fn a_gib_costs_127000_a_second() {
        let occupied = Occupied { memory_bytes: 1 << 30, memory_allocation: 0, compute_percent: 0 };
        assert_eq!(APPLICATION.idle(occupied, 1_000_000_000), 127_000);
    }

    #[test]
    fn a_system_subnet_is_free() {
        let system = Prices { nodes: 40, is_free: true };
        assert_eq!(system.execution(1_000), 0);
        assert_eq!(system.call(10), 0);
    }
}
