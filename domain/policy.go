package domain

import "strings"

// Policy turns an event into the commands that follow from it: the meaning of a webhook, or a step of a process.
//
// React is pure and deterministic like a Decider. Each command is handled exactly once: its id is derived from the
// event's id, the policy's name and the command's place in the list.
type Policy struct {
	Name  string
	From  []string // event types, where * stands for any run of characters: "stripe.charge.*"
	React func(Event) ([]Command, error)
}

// Wants reports whether the policy reacts to events of type t.
func (p Policy) Wants(t string) bool {
	for _, pattern := range p.From {
		if MatchType(pattern, t) {
			return true
		}
	}
	return false
}

// MatchType reports whether t matches pattern, in which every * stands for any run of characters, also none.
func MatchType(pattern, t string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == t
	}
	if !strings.HasPrefix(t, head) {
		return false
	}
	t = t[len(head):]
	for {
		part, more, again := strings.Cut(rest, "*")
		if !again {
			return strings.HasSuffix(t, part)
		}
		i := strings.Index(t, part)
		if i < 0 {
			return false
		}
		t, rest = t[i+len(part):], more
	}
}
