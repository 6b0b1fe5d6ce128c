package api

import (
	"testing"
	"time"
)

func TestWaitOf(t *testing.T) {
	for prefer, want := range map[string]time.Duration{
		"":                           5 * time.Second,
		"wait=10":                    10 * time.Second,
		"Wait = \"10\"":              10 * time.Second,
		"respond-async, wait=3; x=1": 3 * time.Second,
		"wait=0":                     0,
		"wait=99999":                 30 * time.Second,
		"wait=99999999999999999999":  5 * time.Second,
		"wait=-1":                    5 * time.Second,
		"wait=1s":                    5 * time.Second,
		"wait":                       5 * time.Second,
		"waiting=3":                  5 * time.Second,
	} {
		if got := waitOf(prefer, 5*time.Second, 30*time.Second); got != want {
			t.Errorf("%q: %v, want %v", prefer, got, want)
		}
	}
}

func TestExpectedVersion(t *testing.T) {
	for tag, want := range map[string]uint64{`"0"`: 0, `"7"`: 7, `"18446744073709551615"`: 1<<64 - 1} {
		if got, err := expectedVersion(tag); err != nil || got == nil || *got != want {
			t.Errorf("%s: %v, %v", tag, got, err)
		}
	}
	for _, tag := range []string{`7`, `W/"7"`, `*`, `"7", "8"`, `"-1"`, `"07"`, `"+7"`, `""`, `"`, `"18446744073709551616"`} {
		if got, err := expectedVersion(tag); err == nil {
			t.Errorf("%s was taken for %d", tag, *got)
		}
	}
	if got, err := expectedVersion(""); got != nil || err != nil {
		t.Error(got, err)
	}
}

func TestMatches(t *testing.T) {
	for _, list := range []string{`"a"`, `W/"a"`, `"b", "a"`, `*`} {
		if !matches(list, `"a"`) {
			t.Errorf("%s doesn't match", list)
		}
	}
	for _, list := range []string{``, `"b"`, `a`, `"a`} {
		if matches(list, `"a"`) {
			t.Errorf("%s matches", list)
		}
	}
	if bodyTag(1, []byte("x")) == bodyTag(2, []byte("x")) || bodyTag(1, []byte("x")) == bodyTag(1, []byte("y")) {
		t.Error("two things have one tag")
	}
}

func TestTraceParent(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	if traceParent(good) != good || traceParent(good+"x") != "" || traceParent("\r\nx: y") != "" {
		t.Error("traceparent")
	}
}
