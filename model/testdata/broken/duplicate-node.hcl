node "m1" {
  properties = { zone = "a" }
}
node "m1" {
  properties = { zone = "b" }
}
