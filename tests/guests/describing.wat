;; A guest that describes itself by a given plan of any size, and does nothing else. `tests/src/guests.rs` fills the places in.
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

  (core module $code
    (memory (export "memory") {PAGES})
    (data (i32.const 1024) "{PLAN}")
    (func (export "allocate") (param i32 i32 i32 i32) (result i32) (i32.const 512))
    (func (export "describe") (param i32 i32) (result i32)
      (i32.store (i32.const 4) (i32.const 1024))
      (i32.store (i32.const 8) (i32.const {PLAN-LENGTH}))
      (i32.const 0))
    (func (export "open") (param i32 i32 i32 i32) (result i32) (i32.const 0))
    (func (export "invoke") (param i32 i32 i32 i32) (result i32) unreachable)
    (func (export "close") (param i32)))
  (core instance $code (instantiate $code))
  (alias core export $code "memory" (core memory $memory))
  (alias core export $code "allocate" (core func $allocate))

  (func $describe (param "args" (list string)) (result (result string (error $error)))
    (canon lift (core func $code "describe") (memory $memory) (realloc (core func $allocate))))
  (func $open (param "functions" (list u32)) (param "context" string) (result (result u32 (error $error)))
    (canon lift (core func $code "open") (memory $memory) (realloc (core func $allocate))))
  (func $invoke (param "chain" u32) (param "call" u16) (param "input" (list $section)) (result (result (list $section) (error $error)))
    (canon lift (core func $code "invoke") (memory $memory) (realloc (core func $allocate))))
  (func $close (param "chain" u32) (canon lift (core func $code "close")))

  (instance $operator
    (export "describe" (func $describe))
    (export "open" (func $open))
    (export "invoke" (func $invoke))
    (export "close" (func $close)))
  (export "streamrt:plugin/operator@0.1.0" (instance $operator)))
