package domain

import (
	"errors"
	"fmt"
)

// Class sorts errors by what a caller can do about them. The edge maps each class to one status, in one table.
type Class string

// The classes. An error without a class is Internal: a defect of ours, whose text is never shown to a caller.
const (
	Internal     Class = "internal"
	Rejected     Class = "rejected"     // a rule of the business says no
	Conflict     Class = "conflict"     // the stream isn't at the expected version
	Invalid      Class = "invalid"      // the input is wrong; the field is named
	TooLarge     Class = "too-large"    // the input is larger than its limit
	NotFound     Class = "not-found"    // no such thing
	Unauthorized Class = "unauthorized" // who asks is not known
	Forbidden    Class = "forbidden"    // who asks may not
	Unavailable  Class = "unavailable"  // try again later; nothing happened
	Corrupt      Class = "corrupt"      // stored data contradicts itself
)

// Error carries a class and what a caller needs to act on it.
type Error struct {
	Class   Class
	Rule    string // Rejected: the rule's name, stable, for programs
	Field   string // Invalid: the field at fault
	Actual  uint64 // Conflict: the version the stream has
	Message string
	Err     error
}

func (e *Error) Error() string {
	s := e.Message
	if e.Rule != "" {
		s = e.Rule + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Reject refuses a command by a named rule.
func Reject(rule, format string, args ...any) error {
	return &Error{Class: Rejected, Rule: rule, Message: fmt.Sprintf(format, args...)}
}

// Invalidf says that a field of the input is wrong.
func Invalidf(field, format string, args ...any) error {
	return &Error{Class: Invalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// ClassOf returns the class of the first classed error in err's chain, or Internal.
func ClassOf(err error) Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return Internal
}
