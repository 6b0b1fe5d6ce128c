package client

import (
	"errors"
	"strings"
	"testing"
)

// TestJudgement: what is taken for the transport's fault, and what is tried then. Each letter is the end of a connection:
// o had worked, w a wall, c cut before the first message, b a proxy's 502, a can't be reached, p the node's own 503.
func TestJudgement(t *testing.T) {
	ends := map[rune]error{
		'w': &unfit{errSilent}, 'c': errEnd, 'b': &Refused{Status: 502, temporary: true},
		'a': &away{errEnd}, 'p': &Refused{Status: 503, Type: "/problems/unavailable", temporary: true},
	}
	for _, c := range []struct{ ends, want string }{
		{"w", "s"}, {"ww", "sl"}, {"www", "slw"}, {"wwww", "slws"},
		{"cc", "ws"}, {"bb", "ws"}, {"cw", "ws"}, {"cccc", "wssl"},
		{"aaaaaaaaaa", "wwwwwwwwww"}, {"pppppp", "wwwwww"}, {"wapapap", "sssssss"},
		// A transport that has worked is kept, and returned to if it was given up on a guess.
		{"owo", "www"}, {"oww", "wws"}, {"owowow", "wwwwww"}, {"oww" + "o", "wws" + "s"},
		{"occ", "www"}, {"occc", "wwws"}, {"occc" + "o", "wwws" + "w"}, {"occc" + "cc" + "o", "wwws" + "sl" + "w"},
		{"obbbbb", "wwwwww"}, {"obbbbbb" + "o", "wwwwwws" + "w"}, {"obbbbbb" + "bb" + "bb" + "o", "wwwwwws" + "sl" + "lw" + "w"},
		{"wo" + "ccc" + "c", "ss" + "ssl" + "l"}, {"wo" + "ccc" + "o", "ss" + "ssl" + "s"},
	} {
		w := fallback{ways: []Transport{WebSocket, SSE, LongPoll}}
		got := ""
		for _, e := range c.ends {
			if e == 'o' {
				w.proven, w.worked = true, true
				w.ended()
			} else if _, err := w.judge(ends[e]); err != nil {
				t.Errorf("%s: %v", c.ends, err)
			}
			got += string(w.way()[0])
		}
		if got != c.want {
			t.Errorf("%s: goes on over %s, want %s", c.ends, got, c.want)
		}
	}
	w := fallback{ways: []Transport{LongPoll}, worked: true, proven: true}
	for range 10 {
		if moved, err := w.judge(&unfit{&foreign{200, "text/html"}}); moved || err != nil {
			t.Errorf("the only transport there is, which has worked: %v", err)
		}
	}
	w = fallback{ways: []Transport{LongPoll}}
	if _, err := w.judge(&unfit{&foreign{200, "text/html"}}); err == nil || !strings.Contains(err.Error(), "text/html") {
		t.Errorf("not a node: %v", err)
	}
	if errors.Is(&unfit{errSilent}, errEnd) || !errors.Is(&unfit{errSilent}, errSilent) {
		t.Error("an error is hidden")
	}
}
