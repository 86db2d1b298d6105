service "a" {
  type    = "process"
  package = "../elsewhere"
  run { command = ["a"] }
}
service "b" {
  type    = "process"
  package = "/usr/lib/b"
  run { command = ["b"] }
}
