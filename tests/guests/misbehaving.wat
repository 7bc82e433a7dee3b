;; The frame of the guests that misbehave. It doubles column `n` and adds an empty text `s`; before it answers a batch whose first `n` is 13, it runs what
;; stands at MISBEHAVE, what stands at OPEN before it opens a chain, and what stands at DESCRIBE before it describes itself. A guest may also get definitions of its own at DEFINITIONS.
;; `tests/src/guests.rs` fills the places in.
(component
  (import "streamrt:plugin/types@0.1.0" (instance $types
    (type $buffer-shape (record (field "role" u16) (field "node" u16) (field "part" u8) (field "bytes" (list u8))))
    (export "buffer" (type $buffer (eq $buffer-shape)))
    (type $section-shape (record (field "role" u16) (field "port" u16) (field "rows" u32) (field "buffers" (list $buffer))))
    (export "section" (type (eq $section-shape)))
    (type $error-shape (record (field "code" u16) (field "message" string)))
    (export "error" (type (eq $error-shape)))))
  (alias export $types "section" (type $section))
  (alias export $types "error" (type $error))
  (import "streamrt:plugin/host@0.1.0" (instance $host
    (export "emit" (func (param "segment" $section) (result (result (error $error)))))
    (export "log" (func (param "level" u8) (param "message" string)))))
  (import "streamrt:plugin/state@0.1.0" (instance $state
    (export "get-many" (func (param "state" u32) (param "keys" $section) (result (result $section (error $error)))))
    (export "put-many" (func (param "state" u32) (param "entries" $section) (result (result (error $error)))))))
  {IMPORTS}

  (core module $heap
    (memory (export "memory") 3)
    (global $free (mut i32) (i32.const 131072))
    (func (export "allocate") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
      (global.set $free (i32.add (local.get $at) (local.get $size)))
      (if (i32.gt_u (global.get $free) (i32.mul (memory.size) (i32.const 65536)))
        (then (drop (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1))))))
      (local.get $at))
    (func (export "forget") (param i32) (global.set $free (i32.const 131072))))
  (core instance $heap (instantiate $heap))
  (alias core export $heap "memory" (core memory $memory))
  (alias core export $heap "allocate" (core func $allocate))
  (alias core export $heap "forget" (core func $forget))
  (alias export $host "emit" (func $emit))
  (alias export $host "log" (func $log))
  (alias export $state "get-many" (func $get-many))
  (alias export $state "put-many" (func $put-many))
  (core func $emit (canon lower (func $emit) (memory $memory) (realloc (core func $allocate))))
  (core func $log (canon lower (func $log) (memory $memory)))
  (core func $get-many (canon lower (func $get-many) (memory $memory) (realloc (core func $allocate))))
  (core func $put-many (canon lower (func $put-many) (memory $memory) (realloc (core func $allocate))))
  {LOWERED}

  (core module $code
    (import "heap" "memory" (memory 3))
    (import "heap" "allocate" (func $allocate (param i32 i32 i32 i32) (result i32)))
    ;; role, port, rows, buffers, number of buffers, where the result goes
    (import "host" "emit" (func $emit (param i32 i32 i32 i32 i32 i32)))
    (import "host" "log" (func $log (param i32 i32 i32)))
    ;; state, then as for emit
    (import "host" "get-many" (func $get-many (param i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "put-many" (func $put-many (param i32 i32 i32 i32 i32 i32 i32)))
    {CORE-IMPORTS}
    (data (i32.const 1024) "{PLAN}")
    {DEFINITIONS}

    ;; Describes buffer number $i of the answer.
    (func $buffer (param $i i32) (param $role i32) (param $node i32) (param $part i32) (param $bytes i32) (param $n-bytes i32)
      (local.set $i (i32.add (i32.const 32768) (i32.mul (local.get $i) (i32.const 16))))
      (i32.store16 (local.get $i) (local.get $role))
      (i32.store16 offset=2 (local.get $i) (local.get $node))
      (i32.store8 offset=4 (local.get $i) (local.get $part))
      (i32.store offset=8 (local.get $i) (local.get $bytes))
      (i32.store offset=12 (local.get $i) (local.get $n-bytes)))

    (func (export "describe") (param i32 i32) (result i32)
      {DESCRIBE}
      (i32.store8 (i32.const 0) (i32.const 0))
      (i32.store (i32.const 4) (i32.const 1024))
      (i32.store (i32.const 8) (i32.const {PLAN-LENGTH}))
      (i32.const 0))

    (func (export "open") (param i32 i32 i32 i32) (result i32)
      {OPEN}
      (i32.store8 (i32.const 0) (i32.const 0))
      (i32.store (i32.const 4) (i32.const 0))
      (i32.const 0))

    (func (export "invoke") (param $chain i32) (param $call i32) (param $input i32) (param $n-sections i32) (result i32)
      (local $rows i32) (local $n i32) (local $i i32) (local $text i32) (local $n-buffers i32)
      (local.set $rows (i32.load offset=4 (local.get $input)))
      (local.set $n (i32.load offset=8 (i32.load offset=8 (local.get $input))))
      (local.set $text (call $allocate (i32.const 0) (i32.const 0) (i32.const 4) (i32.add (i32.const 64) (i32.mul (local.get $rows) (i32.const 4)))))
      ;; Memory that was used before is not empty.
      (memory.fill (local.get $text) (i32.const 0) (i32.add (i32.const 64) (i32.mul (local.get $rows) (i32.const 4))))
      (call $buffer (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2) (local.get $n) (i32.mul (local.get $rows) (i32.const 8)))
      (call $buffer (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 1) (local.get $text) (i32.mul (i32.add (local.get $rows) (i32.const 1)) (i32.const 4)))
      (call $buffer (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 2) (i32.const 0) (i32.const 0))
      (local.set $n-buffers (i32.const 3))
      ;; At 8192 the section, at 0 the result.
      (i32.store16 (i32.const 8192) (i32.const 1))
      (i32.store16 (i32.const 8194) (i32.const 0))
      (i32.store (i32.const 8196) (local.get $rows))
      (i32.store (i32.const 8200) (i32.const 32768))
      (i32.store8 (i32.const 0) (i32.const 0))
      (i32.store (i32.const 4) (i32.const 8192))
      (i32.store (i32.const 8) (i32.const 1))
      (if (i32.and (i32.ne (local.get $rows) (i32.const 0)) (i64.eq (i64.load align=1 (local.get $n)) (i64.const 13))) (then
        {MISBEHAVE}
      ))
      (i32.store (i32.const 8204) (local.get $n-buffers))
      (block $done
        (loop $double
          (br_if $done (i32.eq (local.get $i) (local.get $rows)))
          (i64.store align=1 (local.get $n) (i64.shl (i64.load align=1 (local.get $n)) (i64.const 1)))
          (local.set $n (i32.add (local.get $n) (i32.const 8)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $double)))
      (i32.const 0))

    (func (export "close") (param i32)))

  (core instance $code (instantiate $code
    (with "heap" (instance $heap))
    (with "host" (instance
      (export "emit" (func $emit))
      (export "log" (func $log))
      (export "get-many" (func $get-many))
      (export "put-many" (func $put-many))
      {LOWERED-EXPORTS}))))

  (func $describe (param "args" (list string)) (result (result string (error $error)))
    (canon lift (core func $code "describe") (memory $memory) (realloc (core func $allocate))))
  (func $open (param "functions" (list u32)) (param "context" string) (result (result u32 (error $error)))
    (canon lift (core func $code "open") (memory $memory) (realloc (core func $allocate))))
  (func $invoke (param "chain" u32) (param "call" u16) (param "input" (list $section)) (result (result (list $section) (error $error)))
    (canon lift (core func $code "invoke") (memory $memory) (realloc (core func $allocate)) (post-return (core func $forget))))
  (func $close (param "chain" u32) (canon lift (core func $code "close")))

  (instance $operator
    (export "describe" (func $describe))
    (export "open" (func $open))
    (export "invoke" (func $invoke))
    (export "close" (func $close)))
  (export "{OPERATOR}" (instance $operator)))
