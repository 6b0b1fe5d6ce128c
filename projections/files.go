package projections

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"
)

// folder is where the files of one projection's generations stand:
//
//	000003.db           a generation
//	000004.db.building  says that 000004.db is not complete yet
//	000003.db.damaged   says that 000003.db was found damaged; it is put aside at the next start
//	serving             which generation serves, and which one did before
type folder string

func (f folder) file(generation int) string {
	return filepath.Join(string(f), fmt.Sprintf("%06d.db", generation))
}

func (f folder) marker(generation int, what string) string { return f.file(generation) + "." + what }

// serving is which generation readers see.
type serving struct {
	Serving  int `json:"serving"`
	Previous int `json:"previous,omitempty"` // kept to go back to
}

// pointer returns which generation serves; zero for none.
func (f folder) pointer() (s serving, err error) {
	b, err := os.ReadFile(filepath.Join(string(f), "serving"))
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}

// point changes which generation serves, in one step.
func (f folder) point(s serving) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return f.write("serving", b)
}

// write replaces a small file in one step, also when the machine dies.
func (f folder) write(name string, b []byte) (err error) {
	temp, err := os.CreateTemp(string(f), name+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(temp.Name())
		}
	}()
	_, err = temp.Write(b)
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), filepath.Join(string(f), name)); err != nil {
		return err
	}
	return f.sync()
}

// leftover is the name of a file that did not get its own before its process died: of write, of a backup or of a restore,
// which may be as large as a generation.
var leftover = regexp.MustCompile(`^(serving|backup|restore|\d{6}\.db\.[a-z]+)\.\d+\.tmp$`)

// sweep removes such files. Nobody else may be writing in the folder.
func (f folder) sweep() error {
	files, err := os.ReadDir(string(f))
	for _, file := range files {
		if leftover.MatchString(file.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(string(f), file.Name())))
		}
	}
	return err
}

// sync makes created, renamed and removed files survive the machine.
func (f folder) sync() error {
	d, err := os.Open(string(f))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// building is what stands in the marker of a generation that isn't complete.
type building struct {
	// Boot identifies the run of the machine. The file isn't synced while it is built: after a crash of the machine,
	// unlike one of the process, it can't be trusted.
	Boot    string    `json:"boot"`
	Started time.Time `json:"started"`
	Rate    int       `json:"rate,omitempty"` // records a second
}

func boot() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // never trusted then
	}
	return strings.TrimSpace(string(b))
}

func (f folder) begin(generation int, b building) error {
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return f.write(filepath.Base(f.marker(generation, "building")), text)
}

// begun returns the marker of a generation that isn't complete; ok is false for a complete one.
func (f folder) begun(generation int) (b building, ok bool, err error) {
	text, err := os.ReadFile(f.marker(generation, "building"))
	if errors.Is(err, os.ErrNotExist) {
		return b, false, nil
	}
	if err != nil {
		return b, true, err
	}
	if json.Unmarshal(text, &b) != nil {
		b = building{} // torn: as after a crash of the machine
	}
	return b, true, nil
}

func (f folder) complete(generation int) error {
	if err := os.Remove(f.marker(generation, "building")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return f.sync()
}

// remove deletes a generation.
func (f folder) remove(generation int) error {
	var errs []error
	for _, name := range []string{f.file(generation), f.marker(generation, "building"), f.marker(generation, "damaged")} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// markDamaged has the next start put the generation aside.
func (f folder) markDamaged(generation int) error {
	return f.write(filepath.Base(f.marker(generation, "damaged")), []byte(time.Now().UTC().Format(time.RFC3339)))
}

func (f folder) isDamaged(generation int) bool {
	_, err := os.Stat(f.marker(generation, "damaged"))
	return err == nil
}

// quarantine puts a damaged file aside, where somebody can look at it.
func (f folder) quarantine(generation int, now time.Time) (aside string, err error) {
	aside = f.file(generation) + "." + now.UTC().Format("20060102T150405") + ".quarantined"
	if err := os.Rename(f.file(generation), aside); err != nil {
		return "", err
	}
	return aside, errors.Join(f.remove(generation), f.sync())
}

// quarantined lists what was put aside.
func (f folder) quarantined() (names []string) {
	all, _ := filepath.Glob(filepath.Join(string(f), "*.quarantined")) // the pattern is well-formed
	for _, path := range all {
		names = append(names, filepath.Base(path))
	}
	return names
}

// generations lists the generations that have a file, oldest first.
func (f folder) generations() (list []int, err error) {
	entries, err := os.ReadDir(string(f))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if n, err := strconv.Atoi(strings.TrimSuffix(e.Name(), ".db")); err == nil && strings.HasSuffix(e.Name(), ".db") && n > 0 {
			list = append(list, n)
		}
	}
	sort.Ints(list)
	return list, err
}
