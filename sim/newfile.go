package sim

import (
	"fmt"
	"os"
	"path/filepath"
)

// newFile is a file in the making: nobody sees it before it is whole. What is no
// regular file, a pipe or a device, is written to as it goes.
type newFile struct {
	*os.File
	path string // "" once it is there, given up, or no regular file
}

// createFile begins a file, beside where it will be. The error says what to do.
func createFile(path string) (*newFile, error) {
	switch info, err := os.Stat(path); {
	case err != nil:
	case info.IsDir():
		return nil, fmt.Errorf("%s is a directory: name a file in it", path)
	case !info.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		return &newFile{File: f}, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("%w: name a file in a directory that you may write to", err)
	}
	return &newFile{f, path}, nil
}

// commit puts the file in its place, on disk.
func (f *newFile) commit() error {
	if f.path == "" {
		return f.Close()
	}
	err := f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), f.path)
	}
	if err != nil {
		f.abandon()
		return fmt.Errorf("write %s: %w: is the disk full?", f.path, err)
	}
	f.path = ""
	return nil
}

// abandon removes what was written, unless it was committed.
func (f *newFile) abandon() {
	f.Close()
	if f.path == "" {
		return
	}
	os.Remove(f.Name())
}
