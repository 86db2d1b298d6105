distribution {
  strategy = "lowest-bidder" # fills nodes one after the other
  resource = "memory"
  sticky   = "stateful" # the database waits for its node rather than move

  constraint { # of all services
    attribute = "os"
    value     = "linux"
  }
}
