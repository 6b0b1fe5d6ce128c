package projections

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What a process left that died between the two names of a file, as large as a read model when it was a restore, is
// removed at the next start, and nothing else is.
func TestLeftoversAreRemoved(t *testing.T) {
	f := folder(t.TempDir())
	stay := []string{"000001.db", "000002.db", "000002.db.building", "notes.1.tmp", "serving", "serving.tmp"}
	for _, name := range append([]string{"serving.17.tmp", "restore.3.tmp", "backup.4.tmp", "000002.db.building.99.tmp"}, stay...) {
		if err := os.WriteFile(filepath.Join(string(f), name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.sweep(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(string(f))
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if err != nil || !slices.Equal(got, stay) {
		t.Errorf("left: %q, %v, want %q", got, err, stay)
	}
}
