service "a" {
  type       = "process"
  depends_on = ["b"]
  run { command = ["a"] }
}

service "b" {
  type            = "process"
  activates_after = ["c"]
  run { command = ["b"] }
}

service "c" {
  type       = "process"
  depends_on = { first = "a" }
  run { command = ["c"] }
}
