package model_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/isonomia-mesh/isonomia/model"
)

// database is a service of a type that knows itself what to run.
func database(name, typ, more string) string {
	return fmt.Sprintf("service %q {\n type = %q\n%s\n}\n", name, typ, more)
}

// user is a process that reads outputs of what it depends on.
func user(name, deps, more string, values ...string) string {
	return fmt.Sprintf("service %q {\n type = \"process\"\n depends_on = [%s]\n run { command = [\"run\", %s] }\n%s\n}\n", name, deps, strings.Join(values, ", "), more)
}

func (c *cluster) command(service string) string {
	return strings.Join(c.row(service).Spec.Command, " ")
}

func TestLocalOutputsKeepTogether(t *testing.T) {
	t.Parallel()
	both := database("staff", "sqlite-database", "") + user("web", `"staff"`, "", "dep.staff.path")
	t.Run("placed and moved as one", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, 3)
		for _, n := range []string{"n3", "n1"} {
			c.deploy(both + pin(fmt.Sprintf(`staff = [%q]`, n)))
			if got, want := c.where(), "staff@"+n+" web@"+n; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if got, want := c.command("web"), "run /data/"+n+"/state/default/staff/live/database.sqlite"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		c.deploy(both + pin(`web = ["n2"]`))
		if got := c.where(); got != "staff@n2 web@n2" {
			t.Errorf("the user's pin: %s", got)
		}
	})
	t.Run("what was apart comes to the state", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, 2)
		c.run(database("staff", "sqlite-database", "") + user("web", `"staff"`, "", "dep.staff.host") + pin(`staff = ["n2"], web = ["n1"]`))
		c.run(both)
		if got := c.where(); got != "staff@n2 web@n2" {
			t.Error(got)
		}
	})
	t.Run("pinned apart", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, 3)
		text := both + pin(`staff = ["n1", "n2"], web = ["n3"]`)
		_, diags := c.compose(text)
		if len(diags) != 1 {
			t.Fatalf("%v", diags)
		}
		d := diags[0]
		if d.Summary != `no node may run both service "web" and service "staff", of which it uses dep.staff.path` ||
			d.Detail != "dep.staff.path holds only on the node of staff. web may run on: n3. staff may run on: n1, n2." {
			t.Errorf("%s\n%s", d.Summary, d.Detail)
		}
		at := func(r model.Range) string { return strings.TrimSpace(strings.Split(text, "\n")[r.Line-1]) }
		if len(d.Related) != 2 || !strings.Contains(at(d.Subject), "dep.staff.path") || !strings.Contains(at(d.Related[0]), "pin") || !strings.Contains(at(d.Related[1]), "pin") {
			t.Errorf("%+v", d)
		}
	})
	t.Run("three of a kind", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, 3)
		text := both + database("papers", "fileset", `settings = { stateDirs = "in" }`) + user("batch", `"papers", "staff"`, "", "dep.papers.path", "dep.staff.path")
		c.run(text + pin(`papers = ["n2", "n3"], web = ["n1", "n3"]`))
		if got := c.where(); got != "batch@n3 papers@n3 staff@n3 web@n3" {
			t.Error(got)
		}
		_, diags := c.compose(text + pin(`papers = ["n2"], web = ["n1"]`))
		if len(diags) != 1 || !strings.Contains(diags[0].Detail, "All of these must be on one node: papers, staff, batch, web.") {
			t.Errorf("%+v", diags)
		}
	})
	t.Run("on all nodes", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, 3)
		site, all := database("site", "fileset", `instances = "all"`), "instances = \"all\""
		c.run(site + user("web", `"site"`, all, "dep.site.path"))
		if got := c.where(); got != "site@n1 site@n2 site@n3 web@n1 web@n2 web@n3" {
			t.Error(got)
		}
		c.run(site + user("web", `"site"`, "instances = 2", "dep.site.path") + pin(`site = ["n1", "n3"]`))
		if got := c.where(); got != "site@n1 site@n3 web@n1 web@n3" {
			t.Error(got)
		}
		_, diags := c.compose(both + user("many", `"staff"`, "instances = 2", "dep.staff.path"))
		if len(diags) != 1 || !strings.Contains(diags[0].Summary, `"many" wants 2 instances and only 1`) {
			t.Errorf("%+v", diags)
		}
	})
	t.Run("waits with the state", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, 3)
		c.run(both + pin(`staff = ["n2", "n3"]`))
		was := c.where()
		c.down(c.s.NodeName(c.row("staff").Node))
		c.decide()
		if got := c.where(); got != was {
			t.Errorf("%s became %s", was, got)
		}
	})
}

func TestOutputsOfElsewhere(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.run(database("db", "postgresql-database", `settings = { postgresqlPort = dep.server.port.sql }`+"\n"+`depends_on = ["server"]`) +
		service("server", `port "sql" { assign = 6000 }`) +
		user("web", `"db"`, "", "dep.db.database", "dep.db.user", "dep.db.port", "dep.db.host") +
		"node \"n1\" {\n container \"postgresql-database\" {\n settings = { postgresqlUsername = \"boss\", postgresqlPort = \"1\" }\n }\n}\nnode \"n2\" {}\n" +
		pin(`db = ["n1"], web = ["n2"]`))
	if got := c.command("web"); got != "run db boss 6000 10.0.0.1" {
		t.Errorf("got %q", got)
	}
	if got := fmt.Sprint(c.row("db").Spec.Settings); got != "map[postgresqlPort:6000 postgresqlUsername:boss]" {
		t.Errorf("got %s", got)
	}
	if c.row("db").Spec.UID != 0 || !c.row("db").Managed || !c.row("db").Exclusive {
		t.Errorf("%+v", c.row("db").RowSpec)
	}
}

// TestSettingsInACircle: two services that connect to each other cannot both be told first.
func TestSettingsInACircle(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	one := func(name, other string) string {
		return database(name, "postgresql-database", fmt.Sprintf("connects_to = { o = %q }\n settings = { postgresqlDatabase = dep.o.database }", other))
	}
	_, diags := c.compose(one("a", "b") + one("b", "a"))
	if !strings.Contains(diags.Error(), "need themselves") {
		t.Errorf("%v", diags)
	}
}

// TestLocalGroupsAreStable: whatever is bound to whatever, composing again changes nothing, and nothing is apart.
func TestLocalGroupsAreStable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := newCluster(t, rapid.IntRange(1, 4).Draw(t, "nodes"))
		var text strings.Builder
		dbs := rapid.IntRange(1, 4).Draw(t, "databases")
		for i := range dbs {
			text.WriteString(database(fmt.Sprintf("d%d", i), "sqlite-database", ""))
		}
		uses := map[string][]string{}
		for i := range rapid.IntRange(1, 5).Draw(t, "users") {
			name, deps, values := fmt.Sprintf("u%d", i), []string{}, []string{}
			for d := range dbs {
				if rapid.Bool().Draw(t, "uses") {
					deps, values = append(deps, fmt.Sprintf("\"d%d\"", d)), append(values, fmt.Sprintf("dep.d%d.path", d))
					uses[name] = append(uses[name], fmt.Sprintf("d%d", d))
				}
			}
			if len(deps) > 0 {
				text.WriteString(user(name, strings.Join(deps, ", "), "", values...))
			}
		}
		c.run(text.String())
		for name, targets := range uses {
			for _, d := range targets {
				if c.row(name).Node != c.row(d).Node {
					t.Fatalf("%s uses %s: %s", name, d, c.where())
				}
			}
		}
		if p := c.plan(text.String()); !p.Empty() {
			t.Fatalf("composed again: %+v", p)
		}
	})
}
