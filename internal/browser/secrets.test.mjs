// A secret is shown, and then it is nowhere: not in the document, a snapshot, the history,
// storage, addresses or the server's log. And a dialog that shows one for the only time is
// not lost by a key, a click or an answer that comes twice.
import test from 'node:test'
import assert from 'node:assert/strict'
import { browser, button, dashboard, done, heading, hits, link, on, pause, person, pin, saved, secretIn, until } from './lib.mjs'

// created makes a key, and returns the dialog that shows its secret.
async function created(p, name, submit = (dialog) => button(dialog, 'Create key').click()) {
	await p.page.goto(p.d.url)
	await link(await heading(p, 'API keys'), 'New API key').click()
	const dialog = await on(p, 'New API key')
	await dialog.getByRole('textbox', { name: 'Name', exact: true }).fill(name)
	await submit(dialog)
	return on(p, 'API key created')
}

// revealed reveals the key of the page whose confirmation is a PIN.
async function revealed(p) {
	await button(await heading(p, 'collection'), 'Reveal key').click()
	const confirm = await on(p, 'Confirm that it is you')
	await confirm.getByLabel('PIN', { exact: true }).fill(pin)
	await button(confirm, 'Confirm').click()
	return on(p, 'Key revealed')
}

async function generated(p) {
	await p.page.goto(p.d.url)
	await link(p.page.getByRole('region', { name: 'collection' }), 'Generate').click()
	await button(await on(p, 'Generate a key'), 'Continue').click()
	const confirm = await on(p, 'Confirm that it is you')
	await confirm.getByLabel('PIN', { exact: true }).fill(pin)
	await button(confirm, 'Confirm').click()
	return on(p, 'API key created')
}

const count = async (p, name) => {
	await p.page.goto(p.d.url + '?name=' + encodeURIComponent(name))
	await heading(p, 'API keys')
	return p.page.getByRole('link', { name, exact: true }).count()
}
const total = (found) => Object.values(found).reduce((a, b) => a + b, 0)

test('a secret that is shown once cannot be lost by accident, and makes one key', { timeout: 120_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '0')
	const p = await person(t, await browser(), d)
	const ways = {
		'Esc × 4': async () => { for (let i = 0; i < 4; i++) { await p.page.keyboard.press('Escape'); await pause(50) } },
		'Esc × 4 in the checkbox': async (dialog) => {
			await dialog.getByRole('checkbox').focus()
			for (let i = 0; i < 4; i++) await p.page.keyboard.press('Escape')
		},
		'a click outside': async () => { for (const x of [5, 640]) await p.page.mouse.click(x, 5) },
		'Enter held down': async () => {
			for (let i = 0; i < 20; i++) await p.page.keyboard.down('Enter')
			await p.page.keyboard.up('Enter')
		},
		'Done, too early': async (dialog) => { await button(dialog, 'Done').dispatchEvent('click'); await button(dialog, 'Done').press('Enter'); await button(dialog, 'Done').press(' ') },
		'Esc where closedby is not known': async (dialog) => {
			await p.page.evaluate(() => document.querySelector('dialog').setAttribute('closedby', 'closerequest'))
			for (let i = 0; i < 4; i++) { await p.page.keyboard.press('Escape'); await pause(100) }
		},
	}
	let lost = 0
	for (const [way, press] of Object.entries(ways)) {
		const dialog = await created(p, way)
		const token = await secretIn(dialog)
		await press(dialog)
		await pause(300)
		if (!await dialog.isVisible() || await secretIn(dialog) !== token) { lost++; t.diagnostic(`lost by ${way}`); continue }
		await saved(p, dialog)
		assert.equal(await count(p, way), 1, way)
	}
	assert.equal(lost, 0)

	// Leaving warns, and stays if the person wants to.
	const dialog = await created(p, 'left')
	const token = await secretIn(dialog)
	let warned = 0
	p.page.once('dialog', (w) => { warned++; w.dismiss() })
	await p.page.reload({ timeout: 3000 }).catch(() => {})
	await until('a warning', () => warned)
	assert.equal(await secretIn(dialog), token)
	await saved(p, dialog)
})

test('sent twice, made once', { timeout: 120_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '0')
	const p = await person(t, await browser(), d)
	const ways = {
		'double click': (dialog) => button(dialog, 'Create key').dblclick(),
		'Enter held down in the name': async (dialog) => {
			await dialog.getByRole('textbox', { name: 'Name', exact: true }).focus()
			for (let i = 0; i < 20; i++) await p.page.keyboard.down('Enter')
			await p.page.keyboard.up('Enter')
		},
		'two submits in one task': (dialog) => dialog.locator('form').evaluate((f) => { f.requestSubmit(); f.requestSubmit() }),
	}
	let made = 0
	for (const [way, submit] of Object.entries(ways)) {
		const dialog = await created(p, way, submit)
		await secretIn(dialog)
		await saved(p, dialog)
		const n = await count(p, way)
		made += n
		assert.equal(n, 1, way)
	}

	// The answer is lost on its way, and the form is sent again: the key is said to be lost.
	await p.page.goto(d.url)
	await link(await heading(p, 'API keys'), 'New API key').click()
	const form = await on(p, 'New API key')
	await form.getByRole('textbox', { name: 'Name', exact: true }).fill('lost answer')
	await p.page.route('**/new', async (r) => { await r.fetch(); await r.abort('connectionreset') })
	await button(form, 'Create key').click()
	await form.getByRole('alert').filter({ hasText: 'could not be reached' }).waitFor()
	assert.equal(await form.getByRole('textbox', { name: 'Name', exact: true }).inputValue(), 'lost answer')
	await p.page.unroute('**/new')
	await button(form, 'Create key').click()
	await on(p, 'It was done, but its key did not reach you')
	assert.equal(await count(p, 'lost answer'), 1)
	t.diagnostic(`keys made twice: ${made - Object.keys(ways).length}`)
})

test('two tabs with the same form', { timeout: 60_000 }, async (t) => {
	const d = await dashboard(t, 'okto')
	const p = await person(t, await browser(), d)
	// Without a dialog there is one form in each tab: Get App Secret.
	const tabs = [p, { ...p, page: await p.context.newPage() }]
	for (const tab of tabs) {
		await tab.page.goto(d.url)
		await button(await heading(tab, 'API keys'), 'Get App Secret').click()
		const confirm = await on(tab, 'Confirm that it is you')
		await confirm.getByLabel('Password', { exact: true }).fill('correct horse')
	}
	for (const tab of tabs) await button(await on(tab, 'Confirm that it is you'), 'Confirm').click()
	const dialog = await on(p, 'API key created')
	await d.works(await secretIn(dialog))
	// Which of the two is said depends on which request was first in the store.
	await tabs[1].page.getByRole('dialog', { name: /^(There is a secret already|It was done, but its key did not reach you)$/ }).waitFor()
	await saved(p, dialog)
})

test('after its dialog, a secret is nowhere', { timeout: 240_000 }, async (t) => {
	const d = await dashboard(t, 'pin', '-seed', '0')
	const p = await person(t, await browser(), d)
	const other = await p.context.newPage()
	await other.goto(d.url)
	const nothing = {}
	const nowhere = async (token, when) => {
		const found = await hits(p, token)
		assert.deepEqual(found, nothing, when)
		assert.deepEqual(await hits(p, token, other), nothing, `${when}, in another tab`)
	}

	// Shown once.
	let dialog = await generated(p)
	const token = await secretIn(dialog)
	const shown = await hits(p, token)
	t.diagnostic(`while it is shown once: ${JSON.stringify(shown)}`)
	assert.ok(total(shown) >= 1)
	for (const where of ['storage', 'cookies and storage', 'history', 'urls', 'server log']) assert.equal(shown[where] ?? 0, 0, where)
	assert.deepEqual(await hits(p, token, other), nothing, 'in another tab, while it is shown')
	const kept = await p.page.evaluateHandle(() => document.querySelector('dialog textarea'))
	await saved(p, dialog)
	await nowhere(token, 'after Done')
	await kept.dispose()
	await p.page.goBack()
	await p.page.waitForLoadState()
	await nowhere(token, 'after back')
	await p.page.goForward()
	await p.page.waitForLoadState()
	await nowhere(token, 'after forward')
	await p.page.reload()
	await nowhere(token, 'after a reload')

	// Revealed, then Done.
	dialog = await revealed(p)
	assert.equal(await secretIn(dialog), token)
	assert.ok(total(await hits(p, token)) >= 1)
	await done(p, dialog)
	await nowhere(token, 'after Done of a reveal')

	// Revealed, then Esc.
	dialog = await revealed(p)
	await p.page.keyboard.press('Escape')
	await dialog.waitFor({ state: 'detached' })
	await nowhere(token, 'after Esc of a reveal')

	// Revealed, then 30 s by the clock, in a tab that has no ticks meanwhile.
	dialog = await revealed(p)
	const began = Date.now()
	await pause(20_000)
	assert.equal(await secretIn(dialog), token, 'after 20 s')
	await p.page.waitForFunction(() => document.querySelector('dialog textarea').value === '', null, { timeout: 15_000 })
	const took = Date.now() - began
	assert.ok(took > 25_000 && took < 33_000, `${took} ms`)
	await dialog.getByRole('timer').filter({ hasText: 'The key is hidden.' }).waitFor()
	await nowhere(token, 'after 30 s')
	await done(p, dialog)
	await nowhere(token, 'after 30 s and Done')

	// Revealed, then away by an address, and back by the history: from the bfcache, if there.
	dialog = await revealed(p)
	await p.page.goto(d.origin + '/terms')
	await nowhere(token, 'elsewhere')
	await p.page.goBack()
	await p.page.waitForLoadState()
	await heading(p, 'collection')
	await nowhere(token, 'back from elsewhere')

	// The log of the account does not have it either.
	await p.page.goto(d.url + '/log')
	await nowhere(token, 'in the activity log')
	t.diagnostic('hits after the dialog: 0')
})

test('without scripts, a secret is in the one page that shows it', { timeout: 60_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '0')
	const p = await person(t, await browser(), d, 'admin', { javaScriptEnabled: false })
	const screen = await created(p, 'static')
	const token = await secretIn(screen)
	// A page that is just being left has no content.
	const content = async () => {
		for (let tries = 0; ; tries++) {
			try {
				return await p.page.content()
			} catch (e) {
				if (tries === 50) throw e
				await p.page.waitForTimeout(100)
			}
		}
	}
	assert.ok((await content()).includes(token))
	await done(p, screen)
	await p.page.waitForURL((u) => !u.pathname.endsWith('/new'))
	for (const step of ['Done', 'back', 'reload']) {
		if (step === 'back') await p.page.goBack().catch(() => {})
		if (step === 'reload') await p.page.goto(d.url)
		await p.page.waitForLoadState()
		const found = (await content()).includes(token)
		t.diagnostic(`after ${step}: ${found ? 'found' : 'not found'} at ${new URL(p.page.url()).pathname}`)
		assert.ok(!found, step)
	}
	assert.ok(!p.urls.join().includes(token))
	assert.ok(!d.err.includes(token))
	assert.equal(await count(p, 'static'), 1)
})
