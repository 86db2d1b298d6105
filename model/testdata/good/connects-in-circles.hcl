# addresses may go in circles; order may not
service "a" {
  type        = "process"
  connects_to = ["b"]
  run { command = ["a", dep.b.host] }
}
service "b" {
  type       = "process"
  depends_on = ["a"]
  run { command = ["b", dep.a.host] }
}
