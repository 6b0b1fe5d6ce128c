package eventstore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// writesOf is the variable that makes TestWritesOfAChild work: on the table at this path.
const writesOf = "PENSTOCK_TEST_WRITES_OF"

const (
	writesBatches = 3
	writesRecords = 60
)

// writesModel is what the rows are after so many records, without a table.
func writesModel(records int64) map[string]string {
	rows := map[string]int{}
	for i := range records {
		key := fmt.Sprint("k", i%17)
		if rows[key]++; i%13 == 0 {
			delete(rows, key)
		}
	}
	text := map[string]string{}
	for k, n := range rows {
		text[k] = fmt.Sprintf("%d%s", n, strings.Repeat(" ", 300)) // over several pages
	}
	return text
}

func writesApply(tx *Tx, i int64) error {
	tx.At(0, i)
	key, n := fmt.Sprint("k", i%17), 0
	if b := tx.Get(key); b != nil {
		if _, err := fmt.Sscan(string(b), &n); err != nil {
			return err
		}
	}
	if n++; i%13 == 0 {
		return tx.Delete(key)
	}
	return tx.Put(key, fmt.Appendf(nil, "%d%s", n, strings.Repeat(" ", 300)))
}

func openWrites(path string) (*Table, error) {
	t, err := OpenTable(path, TableMeta{Name: "w", Version: 1, Generation: 1})
	if err == nil {
		t.Keep("row/first", func(_ string, row []byte) ([][]byte, error) { return [][]byte{row[:1]}, nil })
	}
	return t, err
}

// writesCheck compares rows, index and count with the model of the position that they are read at.
func writesCheck(t *Table) (at int64, err error) {
	err = t.View(func(tx *Tx) error {
		got, entries := map[string]string{}, 0
		if err := tx.Scan("", func(k, row []byte) bool { got[string(k)] = string(row); return true }); err != nil {
			return err
		}
		if p, err := tx.Position("w"); err == nil {
			at = p.Next[0]
		}
		want := writesModel(at)
		if fmt.Sprint(got) != fmt.Sprint(want) || rows(tx.tx) != int64(len(want)) {
			return fmt.Errorf("at %d: %d rows %v, want %v", at, rows(tx.tx), got, want)
		}
		index, err := tx.Index("row/first")
		if err != nil {
			return err
		}
		index.Scan(nil, func(k, key []byte) bool {
			if row := want[string(key)]; row == "" || !bytes.Equal(k, RowIndexEntry([]byte(row[:1]), key)) {
				err = fmt.Errorf("at %d: index entry %q of %q, whose row is %q", at, k, key, row)
				return false
			}
			entries++
			return true
		})
		if err == nil && entries != len(want) {
			err = fmt.Errorf("at %d: %d index entries of %d rows", at, entries, len(want))
		}
		return err
	})
	return at, err
}

// TestWritesOfAChild is the child of TestEveryFailingWrite: it folds on one thread, so that its n-th write is the same
// every time, and tries again what fails, as an operator would have it.
func TestWritesOfAChild(t *testing.T) {
	path := os.Getenv(writesOf)
	if path == "" {
		t.Skip("for TestEveryFailingWrite alone")
	}
	runtime.LockOSThread()
	fmt.Println("begins")
	var table *Table
	var err error
	for range 3 {
		if table, err = openWrites(path); err == nil || errors.Is(err, ErrDamaged) {
			break
		}
	}
	if err != nil {
		fmt.Println("ends without a table:", err)
		return
	}
	for batch := int64(0); batch < writesBatches; batch++ {
		next := Position{Topic: [16]byte{1}, Next: []int64{(batch + 1) * writesRecords}}
		for try := 0; ; try++ {
			_, err := table.Update("w", next, func(tx *Tx) error {
				for i := batch * writesRecords; i < next.Next[0]; i++ {
					if err := writesApply(tx, i); err != nil {
						return err
					}
				}
				return nil
			})
			at, wrong := writesCheck(table)
			if wrong != nil {
				t.Fatalf("served after %v: %v", err, wrong)
			}
			if err == nil && at != next.Next[0] {
				t.Fatalf("at %d after a batch up to %d", at, next.Next[0])
			}
			if errors.Is(err, ErrDamaged) {
				fmt.Println("ends damaged:", err)
				return
			}
			if err == nil {
				break
			}
			fmt.Println("tries again after", err)
			if try == 3 {
				t.Fatalf("it never recovers: %v", err)
			}
		}
	}
	fmt.Println("ends whole")
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestEveryFailingWrite has the kernel refuse the n-th write, and the n-th sync, of a table's file, for every n: no row is
// ever read that isn't the fold up to the position beside it, and the next start finds a good file or says that it is
// damaged. It needs strace (Debian: apt install strace).
func TestEveryFailingWrite(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is missing (Debian: apt install strace)")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ended := map[string]int{}
	for _, c := range []struct{ call, errno string }{{"pwrite64", "EIO"}, {"pwrite64", "ENOSPC"}, {"fdatasync", "EIO"}} {
		first, step := 1, 1
		if c.errno == "ENOSPC" || testing.Short() { // the same places as with EIO: some of them do
			first, step = 1+rand.IntN(7), 7
		}
		for n := first; ; n += step {
			path := filepath.Join(t.TempDir(), "w.db")
			cmd := exec.Command(strace, "-f", "-qq", "-o", filepath.Join(t.TempDir(), "trace"), "-P", path, "-e", "trace="+c.call,
				"-e", fmt.Sprintf("inject=%s:error=%s:when=%d", c.call, c.errno, n), self, "-test.run", "^TestWritesOfAChild$", "-test.v")
			cmd.Env = append(os.Environ(), writesOf+"="+path)
			out, err := cmd.CombinedOutput()
			if err != nil && !strings.Contains(string(out), "begins") {
				t.Skipf("strace doesn't work here: %v\n%s", err, out)
			}
			if err != nil {
				t.Fatalf("%s number %d fails with %s: %v\n%s", c.call, n, c.errno, err, out)
			}
			trace, err := os.ReadFile(cmd.Args[4])
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(trace, []byte("INJECTED")) {
				if n <= 5 {
					t.Fatalf("nothing was refused: %s", out)
				}
				break // it has fewer
			}
			_, end, _ := strings.Cut(string(out), "ends ")
			end, _, _ = strings.Cut(end, " ")
			end, _, _ = strings.Cut(end, "\n")
			ended[c.call+" "+strings.TrimSuffix(end, ":")]++
			table, err := openWrites(path)
			if errors.Is(err, ErrDamaged) {
				ended["found damaged"]++
				continue // put aside, and built anew
			}
			if err != nil {
				t.Fatalf("%s number %d: the next start: %v", c.call, n, err)
			}
			if at, err := writesCheck(table); err != nil || end == "whole" && at != writesBatches*writesRecords {
				t.Errorf("%s number %d: the next start finds %d: %v", c.call, n, at, err)
			}
			if err := table.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Log(ended)
}
