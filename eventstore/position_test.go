package eventstore

import (
	"errors"
	"testing"
)

func TestPositionTextComesBackEqual(t *testing.T) {
	p := Position{Topic: [16]byte{1, 2, 255}, Scope: 7, Next: []int64{0, 1, 1 << 40}}
	back, err := ParsePosition(p.String())
	if err != nil || back.String() != p.String() || !back.Covers(p) || !p.Covers(back) || back.Scope != 7 {
		t.Fatal(back, err)
	}
	if len(p.String()) > 100 {
		t.Errorf("three partitions take %d characters", len(p.String()))
	}
}

func TestADamagedPositionIsRefused(t *testing.T) {
	text := Position{Topic: [16]byte{9}, Next: []int64{5, 6}}.String()
	for i := range text {
		for _, c := range []byte("Aa0_") {
			bad := text[:i] + string(c) + text[i+1:]
			if bad == text {
				continue
			}
			if _, err := ParsePosition(bad); !errors.Is(err, ErrBadPosition) {
				t.Fatalf("character %d changed: %v", i, err)
			}
		}
	}
	for _, bad := range []string{"", "x", text + "A", text[:len(text)-1], text + "=", " " + text} {
		if _, err := ParsePosition(bad); !errors.Is(err, ErrBadPosition) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add(Position{Topic: [16]byte{1}, Next: []int64{3, 4}}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParsePosition(s); err == nil && p.String() != s {
			t.Errorf("%q reads as %+v, which is written %q", s, p, p.String())
		}
	})
}
