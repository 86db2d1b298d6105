package activate

import "testing"

func TestCompareFacts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want, got map[string]string
		err       string
	}{
		{nil, nil, ""},
		{nil, map[string]string{"rows.a": "1"}, ""},
		{map[string]string{}, map[string]string{"rows.a": "1"}, "the state is not what was dumped: rows.a: 1, not absent"},
		{map[string]string{"rows.a": "1"}, map[string]string{"rows.a": "1"}, ""},
		{map[string]string{"rows.a": "1"}, map[string]string{"rows.a": "2"}, "the state is not what was dumped: rows.a: 2, not 1"},
		{map[string]string{"rows.a": "1"}, nil, "the state is not what was dumped: rows.a: absent, not 1"},
		{map[string]string{"z": ""}, map[string]string{"z": "", "b": "0"}, "the state is not what was dumped: b: 0, not absent"},
		{map[string]string{"a": "", "b": "", "c": "", "d": "", "e": "", "f": "", "g": ""}, nil,
			"the state is not what was dumped: a: absent, not ; b: absent, not ; c: absent, not ; d: absent, not ; e: absent, not ; and 2 more"},
	} {
		err := CompareFacts(c.want, c.got)
		if c.err == "" && err != nil || c.err != "" && (err == nil || err.Error() != c.err) {
			t.Errorf("%v, %v: %v", c.want, c.got, err)
		}
	}
}
