package process

import (
	"cmp"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/keeper"
)

// identity is whom an instance runs as.
type identity struct {
	name string
	home string
	user *keeper.User // nil: as the agent
}

// identify resolves the spec's user for an agent that runs as this process does.
func identify(in activate.Instance) (identity, error) { return identifyFor(in, os.Geteuid()) }

// identifyFor resolves the spec's user. Only root can run as somebody else, and root says as whom: nothing runs as root
// because a field was forgotten. Whoever decided on a uid of the service's own did not know as whom the agent of its node
// runs: one that is not root runs what names no user as itself.
func identifyFor(in activate.Instance, agent int) (identity, error) {
	s := in.Spec
	id := identity{name: in.Service, home: in.StateDir}
	uid, gid := s.UID, s.GID
	if s.User != "" {
		u, err := user.Lookup(s.User)
		if err != nil {
			return identity{}, fmt.Errorf("find user %q: %w", s.User, err)
		}
		id.name, id.home = u.Username, cmp.Or(u.HomeDir, in.StateDir)
		if uid, err = strconv.Atoi(u.Uid); err != nil {
			return identity{}, fmt.Errorf("find user %q: uid %q", s.User, u.Uid)
		}
		if gid, err = strconv.Atoi(u.Gid); err != nil {
			return identity{}, fmt.Errorf("find user %q: gid %q", s.User, u.Gid)
		}
	}
	if agent != 0 {
		if s.User != "" && uid != agent {
			return identity{}, fmt.Errorf("run as user %q: only an agent of root can", s.User)
		}
		return id, nil
	}
	if s.User == "" && (uid <= 0 || gid <= 0) {
		return identity{}, fmt.Errorf("run %q: no user and no uid and gid of its own (for root, say user = \"root\")", in.Service)
	}
	id.user = &keeper.User{UID: uint32(uid), GID: uint32(gid)}
	for _, g := range s.Groups {
		if g < 0 {
			return identity{}, fmt.Errorf("run %q: group %d", in.Service, g)
		}
		id.user.Groups = append(id.user.Groups, uint32(g))
	}
	return id, nil
}
