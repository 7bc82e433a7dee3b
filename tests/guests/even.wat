;; A plugin without any SDK: it keeps the rows whose column `n` is even. It shows the bare interface of wit/streamrt-plugin.wit, and
;; is built by any assembler of component text: it imports types alone, and exports the interface `operator`.
;;
;; The host calls `describe` for the plan, `open` with the numbers of the functions to run, then `invoke` for every batch. A batch is a
;; section of role `rows` with a buffer for each Arrow buffer of the columns that the plan names. A filter sends no column
;; back: it says which input rows its output rows come from (buffer `origin`), and the host has the rest.
(component
  ;; The shapes come from the interface `types`, so that their names are known.
  (import "streamrt:plugin/types@0.1.0" (instance $types
    (type $buffer-shape (record (field "role" u16) (field "node" u16) (field "part" u8) (field "bytes" (list u8))))
    (export "buffer" (type $buffer (eq $buffer-shape)))
    (type $section-shape (record (field "role" u16) (field "port" u16) (field "rows" u32) (field "buffers" (list $buffer))))
    (export "section" (type (eq $section-shape)))
    (type $error-shape (record (field "code" u16) (field "message" string)))
    (export "error" (type (eq $error-shape)))))
  (alias export $types "section" (type $section))
  (alias export $types "error" (type $error))

  (core module $code
    ;; The first page holds the plan and the answers; what the host sends and the origins lie behind it, and are dropped after each call.
    (memory (export "memory") 2)
    (global $free (mut i32) (i32.const 65536))

    (data (i32.const 1024) "{\"version\":1,\"functions\":[{\"number\":0,\"kind\":\"filter\",\"name\":\"even\",\"input\":[{\"name\":\"n\",\"type\":\"i64\"}],\"outputs\":[{\"columns\":{\"kind\":\"forward\"}}]}]}")

    ;; The host allocates in the guest through this. It never resizes a list here, so the old place is not looked at.
    (func $allocate (export "allocate") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      ;; Everything is aligned to 8, which is the largest alignment there is.
      (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
      (global.set $free (i32.add (local.get $at) (local.get $size)))
      (if (i32.gt_u (global.get $free) (i32.mul (memory.size) (i32.const 65536)))
        (then (drop (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1))))))
      (local.get $at))

    ;; Called by the host when it has read an answer.
    (func (export "forget") (param i32)
      (global.set $free (i32.const 65536)))

    ;; result<string, error>: a byte that is 0 for a result, then address and length of the text.
    (func (export "describe") (param $args i32) (param $n-args i32) (result i32)
      (i32.store8 (i32.const 0) (i32.const 0))
      (i32.store (i32.const 4) (i32.const 1024))
      (i32.store (i32.const 8) (i32.const 149))
      (i32.const 0))

    ;; result<u32, error>: there is one chain, number 0.
    (func (export "open") (param $functions i32) (param $n-functions i32) (param $context i32) (param $n-context i32) (result i32)
      (i32.store8 (i32.const 0) (i32.const 0))
      (i32.store (i32.const 4) (i32.const 0))
      (i32.const 0))

    ;; A section lies in memory as role (u16), port (u16), rows (u32), address and number of its buffers; a buffer as role (u16), node
    ;; (u16), part (u8), at 8 address and length of its bytes. Both have 16 bytes. The plan asks for one column that is never
    ;; null, and for neither times nor state: so there is one section with one buffer.
    (func (export "invoke") (param $chain i32) (param $call i32) (param $input i32) (param $n-sections i32) (result i32)
      (local $n i32) (local $end i32) (local $row i32) (local $origins i32) (local $next i32)
      (local.set $n (i32.load offset=8 (i32.load offset=8 (local.get $input))))
      (local.set $end (i32.add (local.get $n) (i32.mul (i32.load offset=4 (local.get $input)) (i32.const 8))))
      (local.set $origins (call $allocate (i32.const 0) (i32.const 0) (i32.const 4) (i32.mul (i32.load offset=4 (local.get $input)) (i32.const 4))))
      (local.set $next (local.get $origins))
      (block $done
        (loop $rows
          (br_if $done (i32.eq (local.get $n) (local.get $end)))
          ;; The row's number is written in any case, and stays if the value is even.
          (i32.store (local.get $next) (local.get $row))
          (if (i64.eqz (i64.and (i64.load align=1 (local.get $n)) (i64.const 1)))
            (then (local.set $next (i32.add (local.get $next) (i32.const 4)))))
          (local.set $row (i32.add (local.get $row) (i32.const 1)))
          (local.set $n (i32.add (local.get $n) (i32.const 8)))
          (br $rows)))
      ;; At 64 the buffer: role 5 is `origin`, its part is 2.
      (i32.store16 (i32.const 64) (i32.const 5))
      (i32.store8 (i32.const 68) (i32.const 2))
      (i32.store (i32.const 72) (local.get $origins))
      (i32.store (i32.const 76) (i32.sub (local.get $next) (local.get $origins)))
      ;; At 32 the section: role 1 is `rows`, port 0 the main output of the first function of the chain.
      (i32.store16 (i32.const 32) (i32.const 1))
      (i32.store (i32.const 36) (i32.div_u (i32.sub (local.get $next) (local.get $origins)) (i32.const 4)))
      (i32.store (i32.const 40) (i32.const 64))
      (i32.store (i32.const 44) (i32.const 1))
      ;; At 0 the result: a list with that section.
      (i32.store8 (i32.const 0) (i32.const 0))
      (i32.store (i32.const 4) (i32.const 32))
      (i32.store (i32.const 8) (i32.const 1))
      (i32.const 0))

    (func (export "close") (param $chain i32)))

  (core instance $code (instantiate $code))
  (alias core export $code "memory" (core memory $memory))
  (alias core export $code "allocate" (core func $allocate))
  (alias core export $code "forget" (core func $forget))

  (func $describe (param "args" (list string)) (result (result string (error $error)))
    (canon lift (core func $code "describe") (memory $memory) (realloc (core func $allocate)) (post-return (core func $forget))))
  (func $open (param "functions" (list u32)) (param "context" string) (result (result u32 (error $error)))
    (canon lift (core func $code "open") (memory $memory) (realloc (core func $allocate)) (post-return (core func $forget))))
  (func $invoke (param "chain" u32) (param "call" u16) (param "input" (list $section)) (result (result (list $section) (error $error)))
    (canon lift (core func $code "invoke") (memory $memory) (realloc (core func $allocate)) (post-return (core func $forget))))
  (func $close (param "chain" u32) (canon lift (core func $code "close")))

  (instance $operator
    (export "describe" (func $describe))
    (export "open" (func $open))
    (export "invoke" (func $invoke))
    (export "close" (func $close)))
  (export "streamrt:plugin/operator@0.1.0" (instance $operator)))
