package ingress

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// load reads what a source has learned, once.
func (s *shakes) load(source string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.learned[source]; known || s.dir == "" {
		return nil
	}
	b, err := os.ReadFile(s.file(source))
	if errors.Is(err, fs.ErrNotExist) {
		s.learned[source] = nil
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the learned secrets: %w", err)
	}
	var list []learned
	if json.Unmarshal(b, &list) != nil || len(list) > maxLearned { // its error may quote the content
		return fmt.Errorf("the learned secrets in %s can't be read", s.file(source))
	}
	for _, l := range list {
		if l.Secret == "" {
			return fmt.Errorf("%s has an empty secret", s.file(source))
		}
	}
	s.learned[source] = list
	return nil
}

// learn keeps a secret, durably, before anybody is told that it is known, and closes the window: the next one who comes
// with a secret needs another one.
func (h *Handler) learn(rt *route, secret Secret, now time.Time) error {
	s, source := h.shakes, rt.source.Name
	s.mu.Lock()
	defer s.mu.Unlock()
	if !now.Before(s.until[source]) {
		return refuse(403, "handshake-not-armed", "The source is not waiting for a handshake", "somebody was faster")
	}
	list := s.learned[source]
	if len(list) >= maxLearned {
		return refuse(403, "handshake-full", "The source has learned all the secrets it can",
			"it keeps %d; remove those no longer used", maxLearned)
	}
	list = append(list[:len(list):len(list)], learned{string(secret), now.UTC()})
	b, err := json.Marshal(list)
	if err == nil {
		err = writeDurably(s.dir, s.file(source), b)
	}
	if err != nil {
		return &domain.Error{Class: domain.Unavailable, Message: "the secret can't be kept", Err: err}
	}
	s.learned[source] = list
	delete(s.until, source)
	return nil
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
