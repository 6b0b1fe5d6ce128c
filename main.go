package penstock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs the command line for a business and ends the process: 0 after a clean stop, 1 after a failure, which is
// said in one line.
func Main(app App) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, app, os.Args[1:], os.Stdout, os.Stderr))
}

// run is Main as a function that tests can call.
func run(ctx context.Context, app App, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "penstock",
		Short:         "Webhooks in, events kept, read models and live feeds out",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.AddCommand(devCommand(app), serveCommand(app), checkCommand(app), sendCommand(), listenCommand(), sourcesCommand(), parkedCommand(), projectionsCommand(), rebuildCommand(), backupCommand(), restoreCommand(app), replayCommand(), topicsCommand(),
		versionCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(stderr, "penstock: "+oneLine(err))
		return 1
	}
	return 0
}

// oneLine keeps a list of problems as lines, and everything else on one.
func oneLine(err error) string {
	if e, ok := errors.AsType[*problemList](err); ok {
		return e.Error()
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// problemList is several problems of a configuration, a line each.
type problemList struct{ error }

func (p *problemList) Unwrap() error { return p.error }

func newLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

func serveCommand(app App) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "serve", Short: "Run a node as penstock.yaml says", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := LoadConfig(file, os.Environ())
			if err != nil {
				return &problemList{err}
			}
			logger := newLogger(cmd.ErrOrStderr(), slog.LevelInfo)
			node, err := NewNode(cfg, app, logger)
			if err != nil {
				return err
			}
			node.load = func() (Config, error) { return LoadConfig(file, os.Environ()) }
			defer node.reloadOnHangup(cmd.Context())()
			go func() {
				select {
				case <-node.Started():
					logger.Info("penstock serves", "url", node.URL(), "kafka", node.Brokers(), "data", cfg.Data)
				case <-cmd.Context().Done():
				}
			}()
			return node.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "penstock.yaml", "configuration file")
	return cmd
}

func checkCommand(app App) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "check", Short: "Check penstock.yaml, secrets and business, and start nothing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := LoadConfig(file, os.Environ())
			if err != nil {
				return &problemList{err}
			}
			if _, err := NewNode(cfg, app, newLogger(cmd.ErrOrStderr(), slog.LevelInfo)); err != nil {
				return &problemList{err}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is fine: %d sources, %d projections of the business, %d declared\n", file, len(cfg.Sources), len(app.Projections), len(cfg.Projections))
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "penstock.yaml", "configuration file")
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "penstock", Version) },
	}
}
