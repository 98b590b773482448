"""Right programs that graders are known to fail: (kind, program, input, expected output)."""

from __future__ import annotations

SUM = "5\n1 2 3 4 5\n"
VALID: dict[str, tuple[str, str, str, str]] = {
    "input": ("stdin", "n=int(input())\nprint(sum(map(int,input().split())))", SUM, "15"),
    "sys_stdin": (
        "stdin",
        "import sys\nn=int(sys.stdin.readline())\nprint(sum(map(int,sys.stdin.readline().split())))",
        SUM,
        "15",
    ),
    "stdin_lines": ("stdin", "import sys\na,b=[l for l in sys.stdin]\nprint(sum(map(int,b.split())))", SUM, "15\n"),
    "stdin_read": ("stdin", "import sys\nprint(sum(map(int,sys.stdin.read().split()))-5)", SUM, "15"),
    "open_zero": ("stdin", "print(sum(map(int,open(0).read().split()))-5)", SUM, "15"),
    "open_zero_lines": ("stdin", "n,*a=open(0)\nprint(sum(map(int,a[0].split())))", SUM, "15"),
    "os_read": ("stdin", "import os\nprint(sum(map(int,os.read(0,10**6).split()))-5)", SUM, "15"),
    "stdin_buffer": ("stdin", "import sys\nd=sys.stdin.buffer.read().split()\nprint(sum(map(int,d[1:])))", SUM, "15"),
    "fileinput": (
        "stdin",
        "import fileinput\nl=[x for x in fileinput.input()]\nprint(sum(map(int,l[1].split())))",
        SUM,
        "15",
    ),
    "dev_stdin": ("stdin", "print(sum(map(int,open('/dev/stdin').read().split()))-5)", SUM, "15"),
    "dev_stdout": ("stdin", "print('ok',file=open('/dev/stdout','w'))", "", "ok"),
    "many_threads": (
        "stdin",
        "from concurrent.futures import ThreadPoolExecutor as T\nimport time\n"
        "with T(40) as t: print(sum(t.map(lambda n:time.sleep(.01) or n,range(200))))",
        "",
        "19900",
    ),
    "iter_input": ("stdin", "n,a=iter(input,'')if 0 else (input(),input())\nprint(sum(map(int,a.split())))", SUM, "15"),
    "until_eof": (
        "stdin",
        "t=0\ntry:\n while 1: t+=sum(map(int,input().split()))\nexcept EOFError: print(t-5)",
        SUM,
        "15",
    ),
    "rebound_input": (
        "stdin",
        "import sys\ninput=sys.stdin.readline\nn=int(input())\nprint(sum(map(int,input().split())))",
        SUM,
        "15",
    ),
    "star_stdin": (
        "stdin",
        "from sys import *\nn=int(stdin.readline())\nstdout.write(str(sum(map(int,stdin.readline().split()))))",
        SUM,
        "15",
    ),
    "bytes_io": (
        "stdin",
        "import io,os,sys\ninput=io.BytesIO(os.read(0,os.fstat(0).st_size or 1<<16)).readline\nn=int(input())\nprint(sum(map(int,input().split())))",
        SUM,
        "15",
    ),
    "carriage_returns": ("stdin", "n=int(input())\nprint(input()+'|'+input())", "2\r\nab\r\ncd\r\n", "ab|cd"),
    "no_final_newline": ("stdin", "print(input()[::-1],end='')", "abc", "cba\n"),
    "global_state": ("stdin", "c=0\ndef g():\n global c\n c+=1\n return c\ng();g()\nprint(g())", "", "3"),
    "main_guard": ("stdin", "def main():\n print(int(input())+1)\nif __name__=='__main__':\n main()", "4", "5"),
    "future": (
        "stdin",
        "from __future__ import annotations\ndef g(x: Unknown)->Nothing: return x\nprint(g(1))",
        "",
        "1",
    ),
    "docstring_future": ("stdin", "'''doc'''\nfrom __future__ import annotations\nprint(2)", "", "2"),
    "exit": ("stdin", "print(1)\nexit()", "", "1"),
    "quit": ("stdin", "print(1)\nquit()", "", "1"),
    "sys_exit": ("stdin", "import sys\nprint(1)\nsys.exit(0)", "", "1"),
    "os_exit": ("stdin", "import os\nprint(1,flush=True)\nos._exit(0)", "", "1"),
    "raise_exit": ("stdin", "print(1)\nraise SystemExit", "", "1"),
    "unicode": ("stdin", "print(input()+' ñ 漢字 😀')", "žluť", "žluť ñ 漢字 😀"),
    "big_output": ("stdin", "print('\\n'.join(map(str,range(200000))))", "", "\n".join(map(str, range(200000)))),
    "many_prints": ("stdin", "for i in range(50000): print(i)", "", "\n".join(map(str, range(50000)))),
    "big_input": ("stdin", "import sys\nprint(sum(map(int,sys.stdin.read().split())))", "1 " * 500000, "500000"),
    "ignored_input": ("stdin", "print('ok')", "x" * 3_000_000, "ok"),
    "recursion": ("stdin", "def g(n): return 0 if n==0 else 1+g(n-1)\nprint(g(20000))", "", "20000"),
    "recursion_limit": (
        "stdin",
        "import sys\nsys.setrecursionlimit(10**6)\ndef g(n): return 0 if n==0 else 1+g(n-1)\nprint(g(100000))",
        "",
        "100000",
    ),
    "thread_stack": (
        "stdin",
        "import sys,threading\nsys.setrecursionlimit(1<<30)\nthreading.stack_size(1<<28)\n"
        "def g(n): return 0 if n==0 else 1+g(n-1)\ndef main(): print(g(100000))\nt=threading.Thread(target=main)\nt.start()\nt.join()",
        "",
        "100000",
    ),
    "unjoined_thread": (
        "stdin",
        "import threading,time\ndef g():\n time.sleep(.1); print('late')\nthreading.Thread(target=g).start()",
        "",
        "late",
    ),
    "cached_recursion": (
        "stdin",
        "import functools\n@functools.lru_cache(None)\ndef g(n): return n if n<2 else g(n-1)+g(n-2)\nprint(g(400)%1000007)",
        "",
        "@fib",
    ),
    "atexit_output": ("stdin", "import atexit\natexit.register(print,'bye')\nprint('hi')", "", "hi\nbye"),
    "stdlib": (
        "stdin",
        "import collections,heapq,bisect,functools,itertools,math,re,decimal,fractions,random,string,typing,operator,copy,json,time\n"
        "import datetime,enum,dataclasses,array,struct,statistics,cmath,queue,hashlib,textwrap,abc,contextlib,io,sys,os,bz2,zlib,ctypes\n"
        "h=[3,1,2];heapq.heapify(h)\nprint(h[0],bisect.bisect([1,2,3],2),math.gcd(4,6),fractions.Fraction(1,2),decimal.Decimal('.1')*3)",
        "",
        "1 2 2 1/2 0.3",
    ),
    "no_imports": (
        "stdin",
        "q=deque([1,2]);d=defaultdict(int)\nprint(q.popleft()+gcd(4,6),sqrt(16),Counter('aa')['a'],inf)",
        "",
        "3 4.0 2 inf",
    ),
    "big_integers": ("stdin", "print(len(str(2**20000)))", "", "6021"),
    "floats_as_decimals": ("stdin", "print(1.50, 2.0)", "", "1.5 2"),
    "trailing_blanks": ("stdin", "print('a  ');print('b ');print()", "", "a\nb"),
    "stderr": ("stdin", "import sys\nprint('debug'*1000,file=sys.stderr)\nprint(1)", "", "1"),
    "temporary_files": ("stdin", "open('x.txt','w').write('7')\nprint(open('x.txt').read())", "", "7"),
    "caught_error": ("stdin", "try: 1/0\nexcept ZeroDivisionError: print('zero')", "", "zero"),
    "dataclass": (
        "stdin",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n x: int\nprint(P(1))",
        "",
        "P(x=1)",
    ),
    "eval_exec": ("stdin", "exec('a=1')\nprint(eval('a+1'))", "", "2"),
    "asyncio": (
        "stdin",
        "import asyncio\nasync def m():\n await asyncio.sleep(0)\n print(4)\nasyncio.run(m())",
        "",
        "4",
    ),
    "thread_pool": (
        "stdin",
        "from concurrent.futures import ThreadPoolExecutor as T\nwith T(4) as t: print(sum(t.map(abs,[-1,-2])))",
        "",
        "3",
    ),
    "own_class_named_test": ("stdin", "class Test: output=1\nexpected=2\nprint(Test.output+expected)", "", "3"),
    "windows_source": ("stdin", "n=int(input())\r\nif n:\r\n    print(n)\r\n", "3", "3"),
    "empty_output": ("stdin", "pass", "", ""),
    "solution": (
        "functional",
        "class Solution:\n def f(self,a: List[int],k: int)->List[int]: return [x*k for x in a]",
        "[1, 2]\n3",
        "[3, 6]",
    ),
    "function": ("functional", "def f(a,k): return [x*k for x in a]", "[1, 2]\n3", "[3, 6]"),
    "tuples": ("functional", "def f(): return [(1,2),((3,),'x')]", "", '[[1, 2], [[3], "x"]]'),
    "float_sum": ("functional", "def f(a,b): return a+b", "0.1\n0.2", "0.3"),
    "int_for_float": ("functional", "def f(): return 3", "", "3.0"),
    "printing": ("functional", "def f(x):\n print('debug'*999)\n return x", "1", "1"),
    "null": ("functional", "def f(x): x.append(1)", "[]", "null"),
    "booleans": ("functional", "class Solution:\n def f(self,s): return s==s[::-1]", '"aba"', "true"),
    "instance_state": (
        "functional",
        "class Solution:\n def __init__(self): self.m={}\n def f(self,n):\n  self.m[n]=n\n  return self.m[n]",
        "5",
        "5",
    ),
    "helper_and_global": (
        "functional",
        "M=10**9+7\ndef h(x): return x%M\nclass Solution:\n def f(self,x): return h(x*x)",
        "1000000007",
        "0",
    ),
    "nested_types": (
        "functional",
        "from typing import Optional\nclass Solution:\n def f(self,x: Optional[List[List[str]]]): return {'a':x}",
        '[["q"]]',
        '{"a": [["q"]]}',
    ),
    "guard_not_run": ("functional", "def f(x): return x\nif __name__=='__main__': print(f(input()))", "2", "2"),
    "big_int_value": ("functional", "def f(n): return 10**n", "5000", "1" + "0" * 5000),
    "unicode_value": ("functional", "def f(s): return s+'é\\ud83d'", '"ž"', '"žé\\ud83d"'),
    "blank_last_line": ("functional", "def f(a,b): return a+b", "1\n2\n", "3"),
    "exit_at_end_of_module": ("functional", "def f(x): return x\nimport sys\nsys.setrecursionlimit(10**5)", "7", "7"),
}


def _fibonacci(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


VALID = {
    name: (*row[:3], str(_fibonacci(400) % 1000007) if row[3] == "@fib" else row[3]) for name, row in VALID.items()
}
