package penstock_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

func TestTopicsFromTheCommandLine(t *testing.T) {
	prefix := eventstoretest.Prefix()
	file := filepath.Join(t.TempDir(), "penstock.yaml")
	configure := func(kafka string) {
		t.Helper()
		writeFile(t, file, "kafka:\n  prefix: "+prefix+"\n"+kafka)
	}
	brokers := "  brokers: [" + strings.Join(eventstoretest.Brokers(t), ",") + "]\n"
	topics := func(what string) said {
		t.Helper()
		return command(t, "topics", what, "-c", file)
	}
	configure(brokers + "  partitions: 3\n")
	if s := topics("check"); s.code != 1 || strings.Count(s.stdout, "does not exist") != 4 || !strings.Contains(s.stderr, "4 problems") {
		t.Errorf("before they exist: %+v", s)
	}
	if s := topics("create"); s.code != 0 || strings.Count(s.stdout, ": 3 partitions, replication 1\n") != 4 || !strings.HasPrefix(s.stdout, "created "+prefix+".inbox: ") {
		t.Errorf("create: %+v", s)
	}
	if s := topics("create"); s.code != 0 || s.stdout != "nothing to create\n" {
		t.Errorf("create again: %+v", s)
	}
	s := topics("check")
	if s.code != 0 || !strings.Contains(s.stdout, "for ever") || !strings.Contains(s.stdout, "90 days") || !strings.HasSuffix(s.stdout, "the topics are fine\n") {
		t.Errorf("check: %+v", s)
	}
	configure(brokers + "  replication: 2\n")
	if s := topics("check"); s.code != 1 || strings.Count(s.stdout, "\nproblem: ") != 4 || !strings.Contains(s.stdout, "has replication 1 instead of 2") {
		t.Errorf("other than configured: %+v", s)
	}
	configure("  brokrs: [a:1]\n")
	if s := command(t, "topics", "check", "-c", file); s.code != 1 || !strings.Contains(s.stderr, ":3: kafka.brokrs: no such key") {
		t.Errorf("a wrong configuration: %+v", s)
	}
}
