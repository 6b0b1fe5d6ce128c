package penstock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/penstock-io/penstock/projections"
	"github.com/spf13/cobra"
)

func backupCommand() *cobra.Command {
	r := &remote{}
	var names []string
	var to string
	cmd := &cobra.Command{
		Use: "backup", Short: "Copy the read models of a running node into files", Args: cobra.NoArgs,
		Long: "Copy the read models of a running node into files, ‹name›.tar each, to have another node start from them.\n\n" +
			"A copy is of one moment and knows the position that it stands at. It is checked while it comes in, and stands in its\n" +
			"place only when it is whole. See docs/projections.md.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.out = cmd.OutOrStdout()
			return r.backup(cmd.Context(), names, to)
		},
	}
	r.flags(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&names, "projection", nil, "name of one; may stand several times (default: all)")
	f.StringVar(&to, "to", "", "folder to write to, or with a single --projection a file")
	_ = cmd.MarkFlagRequired("to") // it is there
	return cmd
}

func (r *remote) backup(ctx context.Context, names []string, to string) error {
	single := len(names) == 1
	if len(names) == 0 {
		var list struct{ Items []projections.Status }
		quiet := *r
		quiet.raw = false
		if _, err := quiet.call(ctx, http.MethodGet, "/v1/projections", nil, &list); err != nil {
			return err
		}
		for _, s := range list.Items {
			names = append(names, s.Name)
		}
	}
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		single = false
	}
	for _, name := range names {
		path := to
		if !single {
			if err := os.MkdirAll(to, 0o700); err != nil {
				return err
			}
			path = filepath.Join(to, name+".tar")
		}
		m, err := r.load(ctx, name, path)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(r.out, "%s: generation %d, %d rows, %.1f MB in %s\n", m.Name, m.Generation, m.Rows, float64(m.Bytes)/1e6, path)
	}
	return nil
}

const (
	// backupStart is how long a node may take to copy a table before it sends the first byte.
	backupStart = 15 * time.Minute
	// backupSilence is how long it may send nothing after that.
	backupSilence = time.Minute
)

// load writes a backup to path, and leaves nothing there unless it is whole.
func (r *remote) load(ctx context.Context, name, path string) (m projections.Manifest, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(backupStart, func() { cancel(errors.New("the node sends nothing")) })
	defer late.Stop()
	resp, err := r.ask(ctx, http.MethodGet, "/v1/projections/"+url.PathEscape(name)+"/backup", "application/x-tar, application/problem+json", nil)
	if err != nil {
		return m, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if err != nil {
			return m, err
		}
		return m, refusal(resp, answer)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return m, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	body := &watched{resp.Body, late}
	m, err = projections.CheckBackup(io.TeeReader(body, f))
	if err == nil {
		// What follows the last file of a tar belongs to it too.
		_, err = io.Copy(f, body)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil && m.Name != name {
		err = fmt.Errorf("the node has sent a backup of %q", cell(m.Name, 100))
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return m, err
	}
	return m, os.Rename(f.Name(), path)
}

// watched puts the alarm off whenever something comes.
type watched struct {
	io.Reader
	late *time.Timer
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.late.Reset(backupSilence)
	return n, err
}

func restoreCommand(app App) *cobra.Command {
	var file, data string
	cmd := &cobra.Command{
		Use: "restore FILE …", Short: "Have a node that is stopped start from backups of its read models", Args: cobra.MinimumNArgs(1),
		Long: "Have a node that is stopped start from backups of its read models: it then reads the log from where they stand.\n\n" +
			"A backup is refused when it is damaged, of another definition than this program has, or where a table is already. One\n" +
			"of another cluster or of topics that are gone is refused when the node starts. See docs/projections.md.",
		RunE: func(cmd *cobra.Command, files []string) error {
			cfg := DevelopmentConfig()
			if file != "" {
				var err error
				if cfg, err = LoadConfig(file, os.Environ()); err != nil {
					return &problemList{err}
				}
			}
			if data != "" {
				cfg.Data = data
			}
			unlock, err := lock(cfg.Data)
			if err != nil {
				return err
			}
			defer unlock()
			for _, path := range files {
				m, err := restore(cfg, app, path)
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: generation %d, %d rows as of %s\n", m.Name, m.Generation, m.Rows, m.Made.Format(time.RFC3339))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "config", "c", "", "configuration file (default: that of penstock dev)")
	f.StringVar(&data, "data", "", "folder of everything that is kept (default: that of the configuration)")
	return cmd
}

func restore(cfg Config, app App, path string) (m projections.Manifest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return m, cause(err)
	}
	defer f.Close()
	return projections.Restore(filepath.Join(cfg.Data, "projections"), cfg.projections(app), f)
}
