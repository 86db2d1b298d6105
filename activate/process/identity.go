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

// identify resolves the spec's user. Only root can run as somebody else, and root says as whom: nothing runs as root
// because a field was forgotten.
func identify(in activate.Instance) (identity, error) {
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
	if os.Geteuid() != 0 {
		if (s.User != "" || uid != 0) && uid != os.Geteuid() {
			return identity{}, fmt.Errorf("run as uid %d: only an agent of root can", uid)
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
