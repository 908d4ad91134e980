package sim

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A pipe named for a recording is written to, and stays one.
func TestNewFileOnPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	read := make(chan string)
	go func() {
		defer close(read)
		f, err := os.Open(path)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		b, err := io.ReadAll(f)
		if err != nil {
			t.Error(err)
		}
		read <- string(b)
	}()
	f, err := createFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.abandon()
	if _, err := f.WriteString("a line\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.commit(); err != nil {
		t.Fatal(err)
	}
	if got := <-read; got != "a line\n" {
		t.Errorf("read %q from the pipe", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("%v, %v: it is a pipe no more", info, err)
	}
}
