;; Does what its argument says: records of three words, what to do, where, and with what.
;;
;; The first heap page is its own, for arguments; what happens in it is undone before it answers.
(module
  (import "ic0" "msg_arg_data_size" (func $size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $copy (param i32 i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "stable64_size" (func $stable_size (result i64)))
  (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $stable_write (param i64 i64 i64)))
  (import "ic0" "call_new" (func $call_new (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "ic0" "call_data_append" (func $append (param i32 i32)))
  (import "ic0" "call_perform" (func $perform (result i32)))
  (table funcref (elem $on_answer))
  (memory 2)
  (global $value (mut i32) (i32.const 0))
  (data (i32.const 60000) "script")

  (func $write_stable (param $where i32) (param $with i32)
    (i32.store8 (i32.const 65535) (local.get $with))
    (call $stable_write (i64.extend_i32_u (local.get $where)) (i64.const 65535) (i64.const 1))
    (i32.store8 (i32.const 65535) (i32.const 0)))
  (func $do (param $what i32) (param $where i32) (param $with i32)
    (if (i32.eq (local.get $what) (i32.const 0))
      (then (i32.store8 (local.get $where) (local.get $with))))
    (if (i32.eq (local.get $what) (i32.const 1))
      (then (call $write_stable (local.get $where) (local.get $with))))
    (if (i32.eq (local.get $what) (i32.const 2))
      (then (global.set $value (local.get $with))))
    (if (i32.eq (local.get $what) (i32.const 3))
      (then (drop (memory.grow (i32.const 1)))))
    (if (i32.eq (local.get $what) (i32.const 4))
      (then (drop (call $stable_grow (i64.const 1)))))
    (if (i32.eq (local.get $what) (i32.const 5)) (then unreachable)))
  (func $run (param $at i32) (param $end i32)
    (loop $next (if (i32.lt_u (local.get $at) (local.get $end)) (then
      (call $do
        (i32.load (local.get $at))
        (i32.load offset=4 (local.get $at))
        (i32.load offset=8 (local.get $at)))
      (local.set $at (i32.add (local.get $at) (i32.const 12)))
      (br $next)))))
  (func $load (call $copy (i32.const 0) (i32.const 0) (call $size)))
  (func $clear (memory.fill (i32.const 0) (i32.const 0) (call $size)))

  (func $script (export "canister_update script")
    (call $load) (call $run (i32.const 0) (call $size)) (call $clear) (call $reply))
  (func (export "canister_query look")
    (call $load) (call $run (i32.const 0) (call $size)) (call $clear) (call $reply))

  ;; The length of a script for itself, ten bytes of a callee, that script, and one for the callee.
  (func (export "canister_update call") (local $rest i32)
    (call $load)
    (local.set $rest (i32.add (i32.const 14) (i32.load (i32.const 0))))
    (call $run (i32.const 14) (local.get $rest))
    (call $call_new
      (i32.const 4) (i32.const 10) (i32.const 60000) (i32.const 6)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $append (local.get $rest) (i32.sub (call $size) (local.get $rest)))
    (if (call $perform) (then unreachable))
    (call $clear))
  (func $on_answer (param i32) (call $reply))

  ;; Traps if the last three bits of the global are set; else leaves a mark in stable memory.
  (func (export "canister_pre_upgrade")
    (if (i32.eq (i32.and (global.get $value) (i32.const 7)) (i32.const 7)) (then unreachable))
    (if (i64.ne (call $stable_size) (i64.const 0))
      (then (call $write_stable (i32.const 0) (i32.const 42)))))
  ;; Traps, after some work, if there is an argument.
  (func (export "canister_post_upgrade")
    (i32.store8 (i32.const 70000) (i32.const 9))
    (if (call $size) (then (drop (call $stable_grow (i64.const 1))) unreachable))))
