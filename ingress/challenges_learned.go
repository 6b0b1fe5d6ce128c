package ingress

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// learned is a secret that a provider taught in a handshake. Its file is readable by the node's user alone.
type learned struct {
	Secret string    `json:"secret"`
	At     time.Time `json:"learned"`
}

// maxLearned bounds the secrets that a source learns: Asana has one for each of its webhooks, which may share a URL.
const maxLearned = 8

func (s *shakes) file(source string) string { return filepath.Join(s.dir, source+".json") }

// leftover is the name of a file of writeDurably before it has its own.
var leftover = regexp.MustCompile(`^\.new-\d+$`)

// sweep removes what a process left that died between the two names of a file. Nobody else may be writing in the folder.
func (s *shakes) sweep() error {
	if s.dir == "" {
		return nil
	}
	files, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, f := range files {
		if leftover.MatchString(f.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(s.dir, f.Name())))
		}
	}
	return err
}

// load reads what a source has learned, once.
func (s *shakes) load(source string) error {
	s.mu.Lock()
	_, known := s.learned[source]
	s.mu.Unlock()
	if known || s.dir == "" {
		return nil
	}
	list, err := readLearned(s.file(source))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.learned[source]; !known {
		s.learned[source] = list
	}
	return nil
}

func readLearned(path string) (list []learned, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the learned secrets: %w", err)
	}
	if json.Unmarshal(b, &list) != nil || len(list) > maxLearned { // its error may quote the content
		return nil, fmt.Errorf("the learned secrets in %s can't be read", path)
	}
	for _, l := range list {
		if l.Secret == "" {
			return nil, fmt.Errorf("%s has an empty secret", path)
		}
	}
	return list, nil
}

// learn keeps a secret, durably, before anybody is told that it is known, and closes the window: the next one who comes
// with a secret needs another one. The disk is waited for without the lock, which every delivery of a source that learns
// takes.
func (h *Handler) learn(rt *route, secret Secret, now time.Time) error {
	s, source := h.shakes, rt.source.Name
	list, until, err := s.claim(source, now)
	if err != nil {
		return err
	}
	list = append(list, learned{string(secret), now.UTC()})
	b, err := json.Marshal(list)
	if err == nil {
		err = s.keep(s.dir, s.file(source), b)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keeping, source)
	if err != nil { // the window stays open for another try
		return &domain.Error{Class: domain.Unavailable, Message: "the secret can't be kept", Err: err}
	}
	s.learned[source] = list
	if s.until[source].Equal(until) { // nobody armed it again meanwhile
		delete(s.until, source)
	}
	return nil
}

// claim gives a source's window to the first who comes, until keeping is deleted again, and returns a copy of what the
// source has learned.
func (s *shakes) claim(source string, now time.Time) (list []learned, until time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	until = s.until[source]
	if s.keeping[source] || !now.Before(until) {
		return nil, until, refuse(403, "handshake-not-armed", "The source is not waiting for a handshake", "somebody was faster")
	}
	list = slices.Clone(s.learned[source])
	if len(list) >= maxLearned {
		return nil, until, refuse(403, "handshake-full", "The source has learned all the secrets it can",
			"it keeps %d; remove those no longer used", maxLearned)
	}
	s.keeping[source] = true
	return list, until, nil
}

// keysOf are the secrets that a source has learned.
func (s *shakes) keysOf(source string) (secrets []Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.learned[source] {
		secrets = append(secrets, Secret(l.Secret))
	}
	return secrets
}

// writeDurably replaces a file in dir whole: after a crash it is the old one or the new one.
func writeDurably(dir, path string, content []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// keys are the secrets that a delivery may be signed with.
func (h *Handler) keys(rt *route) []Key {
	if !rt.provider.learns() {
		return rt.source.Secrets
	}
	return append(Keys(h.shakes.keysOf(rt.source.Name)...), rt.source.Secrets...)
}

// secret is the first of the secrets that count: the one to answer a challenge with.
func (rt *route) secret(now time.Time) Secret {
	for _, k := range rt.source.Secrets {
		if k.counts(now) {
			return k.Secret
		}
	}
	return nil
}
