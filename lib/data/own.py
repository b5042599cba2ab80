"""Alias of lib.own under its former name, for published commands: python -m lib.data.own."""
import runpy

if __name__ == '__main__':
    runpy.run_module('lib.own', run_name='__main__', alter_sys=True)
